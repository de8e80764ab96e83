"""What layers that look at all operations are made of: one place before an operation, and one behind it."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from typing import Any, Final

from vhostfs.filesystem import (
    OPERATIONS,
    Caller,
    DirEntry,
    Entry,
    Filesystem,
    MaybeAwaitable,
    RenameFlags,
    Session,
    Wrapper,
    implements,
)
from vhostfs.layers.listing import each_entry
from vhostfs.layers.names import Names

BY_NAME: Final = frozenset({"lookup", "mknod", "mkdir", "symlink", "unlink", "rmdir", "create"})
"""The operations whose first arguments are a directory and a name in it."""

GIVING_UP: Final = frozenset({"release", "releasedir", "flush"})
"""The operations by which the kernel gives something up: refusing one gains nothing."""

_EXCHANGE: Final = int(RenameFlags.EXCHANGE)


def _is_awaitable(answer: object) -> bool:
    """Tell what inspect.isawaitable does of all but generators, in a tenth of its time."""
    return hasattr(type(answer), "__await__")


class Intercepted[H](Wrapper[H]):
    """Calls `before` and `after` around each operation of another file system, and keeps account of names."""

    def __init__(self, inner: Filesystem[H]) -> None:
        """Stand before a file system."""
        super().__init__(inner)
        self.names: Final = Names()
        followers: dict[str, Callable[[tuple[Any, ...], Any], Any]] = {
            **dict.fromkeys(("lookup", "mknod", "mkdir", "symlink"), self._follow_entry),
            "create": self._follow_create,
            "tmpfile": self._follow_tmpfile,
            "link": self._follow_link,
            **dict.fromkeys(("unlink", "rmdir"), self._follow_removal),
            "rename": self._follow_rename,
            "readdir": self._follow_listing,
        }
        for operation in OPERATIONS:
            if implements(inner, operation):
                method = getattr(inner, operation)
                setattr(self, operation, self._around(operation, method, followers.get(operation)))

    # ---- For the layer ----

    def before(self, operation: str, caller: Caller, arguments: tuple[Any, ...]) -> Any:
        """Look at what is asked, the caller left out of the arguments.

        Raises OSError to refuse it. What is returned is handed to `after`; something awaitable is awaited
        first, and the operation with it.
        """

    def after(
        self, operation: str, caller: Caller, arguments: tuple[Any, ...], context: Any, answer: Any
    ) -> None:
        """Look at what was answered: an exception where the operation failed."""

    # ---- Around ----

    def _around(
        self,
        operation: str,
        method: Callable[..., Any],
        follow: Callable[[tuple[Any, ...], Any], Any] | None,
    ) -> Callable[..., Any]:
        before, after = self.before, self.after

        def finished(caller: Caller, arguments: tuple[Any, ...], context: Any, answer: Any) -> Any:
            if follow is not None:
                answer = follow(arguments, answer)
            after(operation, caller, arguments, context, answer)
            return answer

        def intercepted(caller: Caller, *arguments: Any) -> Any:
            context = before(operation, caller, arguments)
            if context is not None and _is_awaitable(context):
                return later(caller, arguments, context)
            try:
                answer = method(caller, *arguments)
            except BaseException as error:
                after(operation, caller, arguments, context, error)
                raise
            if _is_awaitable(answer):
                return awaited(caller, arguments, context, answer)
            return finished(caller, arguments, context, answer)

        async def later(caller: Caller, arguments: tuple[Any, ...], begun: Awaitable[Any]) -> Any:
            context = await begun
            try:
                answer = method(caller, *arguments)
            except BaseException as error:
                after(operation, caller, arguments, context, error)
                raise
            if _is_awaitable(answer):
                return await awaited(caller, arguments, context, answer)
            return finished(caller, arguments, context, answer)

        async def awaited(
            caller: Caller, arguments: tuple[Any, ...], context: Any, answer: Awaitable[Any]
        ) -> Any:
            try:
                result = await answer
            except BaseException as error:
                after(operation, caller, arguments, context, error)
                raise
            return finished(caller, arguments, context, result)

        return intercepted

    def subjects(self, operation: str, arguments: tuple[Any, ...]) -> tuple[str, ...]:
        """Return the paths that an operation is about: two for rename, link and copy_file_range."""
        names = self.names
        if operation in BY_NAME:
            return (names.path_below(arguments[0], arguments[1]),)
        if operation == "rename":
            return names.path_below(arguments[0], arguments[1]), names.path_below(arguments[2], arguments[3])
        if operation == "link":
            return names.path(arguments[0]), names.path_below(arguments[1], arguments[2])
        if operation == "copy_file_range":
            return names.path(arguments[0]), names.path(arguments[3])
        return (names.path(arguments[0]),)

    # ---- Names ----

    def destroy(self) -> MaybeAwaitable[None]:
        """Forget all names, as the kernel has."""
        self.names.clear()
        return self.inner.destroy()

    def init(self, session: Session) -> MaybeAwaitable[None]:
        """Begin without names."""
        self.names.clear()
        return self.inner.init(session)

    def forget(self, node: int) -> None:
        """Forget a node's names."""
        self.names.forget(node)
        self.inner.forget(node)

    def _add(self, parent: int, name: str, entry: Entry) -> None:
        node = entry.attr.ino if entry.node is None else entry.node
        self.names.add(parent, name, node, is_directory=stat.S_ISDIR(entry.attr.mode))

    def _follow_entry(self, arguments: tuple[Any, ...], answer: Entry | None) -> Entry | None:
        if answer is None:
            self.names.remove(arguments[0], arguments[1])
        else:
            self._add(arguments[0], arguments[1], answer)
        return answer

    def _follow_create(self, arguments: tuple[Any, ...], answer: tuple[Entry, Any]) -> tuple[Entry, Any]:
        self._add(arguments[0], arguments[1], answer[0])
        return answer

    def _follow_tmpfile(self, arguments: tuple[Any, ...], answer: tuple[Entry, Any]) -> tuple[Entry, Any]:
        entry = answer[0]
        self.names.add_unnamed(arguments[0], entry.attr.ino if entry.node is None else entry.node)
        return answer

    def _follow_link(self, arguments: tuple[Any, ...], answer: Entry) -> Entry:
        self._add(arguments[1], arguments[2], answer)
        return answer

    def _follow_removal(self, arguments: tuple[Any, ...], answer: None) -> None:
        self.names.remove(arguments[0], arguments[1])
        return answer

    def _follow_rename(self, arguments: tuple[Any, ...], answer: None) -> None:
        parent, name, new_parent, new_name, flags = arguments
        self.names.rename(parent, name, new_parent, new_name, exchange=bool(flags & _EXCHANGE))
        return answer

    def _follow_listing(self, arguments: tuple[Any, ...], answer: Any) -> Any:
        parent: int = arguments[0]

        def followed(entry: DirEntry) -> DirEntry:
            if entry.entry is not None:
                self._add(parent, entry.name, entry.entry)
            return entry

        return each_entry(answer, followed)

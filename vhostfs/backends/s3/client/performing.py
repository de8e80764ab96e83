"""What all operations of the client have in common: signing, connections, hedging, and when to try again.

A refusal may say something about us: that the bucket is in another region, that our clock is wrong, that the
credentials have expired. Then that is mended, and the request sent again. What the store or the network could
not do this time is tried again within a budget.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Buffer, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from vhostfs.backends.s3.client import answers, documents
from vhostfs.backends.s3.client.connection import LostError, Place, Request, Response, collect
from vhostfs.backends.s3.client.credentials import Keychain
from vhostfs.backends.s3.client.endpoint import endpoint, tls_context
from vhostfs.backends.s3.client.headers import crc32
from vhostfs.backends.s3.client.hedging import Hedge, Latencies, SupersededError
from vhostfs.backends.s3.client.options import ClientOptions
from vhostfs.backends.s3.client.pool import Pool
from vhostfs.backends.s3.client.retrying import RETRIED_CODES, RETRIED_STATUSES, RetryBudget, wanted_delay
from vhostfs.backends.s3.client.signing import EMPTY, UNSIGNED, Credentials, Signer, payload_hash
from vhostfs.backends.s3.operating.counters import Counters
from vhostfs.backends.s3.operating.standing import Standing
from vhostfs.backends.s3.store import BrokenAnswerError, ConflictError, StoreError, UnavailableError

THROTTLED_STATUSES: Final = frozenset((429, 503))
REGION: Final = re.compile(r"[a-zA-Z0-9-]{1,64}")


@dataclass(slots=True)
class Operation:
    """One operation: what is sent, and what the answer is for."""

    name: str
    what: str
    method: str
    key: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Sequence[Buffer] = ()
    place: Place = collect
    changes: bool = False
    """It changes something: after a lost answer nobody knows whether it did."""
    tells_errors_late: bool = False
    """Status 200 may carry an error document, because the server answered before it knew."""
    hedge: Hedge | None = None


class Performer:
    """Performs operations on one bucket. For one event loop, on which it is first used."""

    def __init__(self, options: ClientOptions, keychain: Keychain, standing: Standing | None = None) -> None:
        """A performer without connections; raise ConfigurationError for what cannot be meant."""
        self._options = options
        self._keychain = keychain
        self.endpoint = endpoint(
            options.bucket, options.region, url=options.url, addressing=options.addressing
        )
        self._tls = tls_context(options.authorities) if self.endpoint.tls else None
        self._signer = Signer(options.region)
        self._pool: Pool | None = None
        self._budget = RetryBudget(options.retry)
        self._latencies = Latencies()
        self._skew = 0.0
        self.counters = Counters()
        self.standing = standing or Standing(f"bucket {options.bucket} at {self.endpoint.host}")

    @property
    def region(self) -> str:
        """Return the region that is signed for: the bucket's, once a request was answered."""
        return self._signer.region

    def close(self) -> None:
        """Give up all connections; requests under way fail."""
        self._keychain.close()
        if self._pool is not None:
            self._pool.close()

    async def hedged(self, operation: Operation) -> Response:
        """Perform an operation that only reads, and once more beside it when it is slow to begin."""
        patience = self._latencies.patience() if self._options.hedge else None
        if patience is None:
            return await self.perform(operation)
        hedge = Hedge(operation.place, self._latencies)
        operation = replace(operation, place=hedge.first, hedge=hedge)

        async def second() -> Response:
            self.counters.hedged += 1
            return await self.perform(replace(operation, place=hedge.second, hedge=None))

        hedge.begin(patience, second)
        try:
            return await self.perform(operation)
        except SupersededError:
            return await hedge.result()
        finally:
            hedge.end()

    async def perform(self, operation: Operation) -> Response:
        """Send an operation until it is answered, refused for good, or not worth another attempt."""
        attempt = 0
        fresh = doubtful = False
        failure: StoreError
        while True:
            attempt += 1
            wanted: float | None = None
            credentials = await self._credentials(operation)
            try:
                response = await self._attempt(operation, credentials, fresh=fresh)
            except LostError as error:
                if error.stale and not fresh:
                    fresh, attempt = True, attempt - 1
                    doubtful = doubtful or operation.changes
                    continue
                failure, again = _without_frames(error), True
                doubtful = doubtful or operation.changes
            except BrokenAnswerError as error:
                failure, again = _without_frames(error), True
                doubtful = doubtful or operation.changes
            except UnavailableError as error:
                failure, again = _without_frames(error), True
            else:
                refusal = _refusal(operation, response)
                if refusal is None:
                    self._budget.succeeded()
                    self.standing.answered()
                    return response
                refusal = self._without_secrets(refusal, credentials)
                failure = answers.error(response.status, refusal, operation.what)
                if (
                    self._has_learnt(response, refusal, credentials)
                    and attempt < self._options.retry.attempts
                ):
                    continue
                again = response.status in RETRIED_STATUSES or refusal.code in RETRIED_CODES
                again = again or (isinstance(failure, ConflictError) and operation.name == "PutObject")
                # With status 200 the server found out late that it failed, or thinks so.
                doubtful = doubtful or (operation.changes and response.status in {200, *range(500, 600)})
                wanted = wanted_delay(response.headers.get("retry-after"))
                self.counters.throttled += response.status in THROTTLED_STATUSES
            # Of a store that nobody reaches the guest is told at once, and not after all attempts.
            again = again and not (self.standing.unreachable and not failure.status)
            delay = self._budget.delay(attempt, wanted) if again else None
            if delay is None:
                failure.doubtful = doubtful
                self._note_failure(operation, failure)
                try:
                    raise failure
                finally:
                    del failure  # a frame that knows its own error keeps the memory alive that was read into
            self.counters.retried += 1
            await asyncio.sleep(delay)

    async def _credentials(self, operation: Operation) -> Credentials | None:
        if self._options.anonymous:
            return None
        try:
            return await self._keychain.credentials()
        except StoreError as error:
            self._note_failure(operation, error)
            raise

    def _note_failure(self, operation: Operation, failure: StoreError) -> None:
        self.counters.errors[type(failure).__name__.removesuffix("Error").lower()] += 1
        self.standing.failed(operation.name, failure)

    def _without_secrets(
        self, refusal: documents.Refusal, credentials: Credentials | None
    ) -> documents.Refusal:
        """Return a refusal; without its words where the server tells us our own secrets."""
        key = self._options.customer_key
        secrets = ["AWS4-HMAC-SHA256", "" if key is None else base64.b64encode(key).decode()]
        if credentials is not None:
            secrets += [credentials.secret_key, credentials.session_token or ""]
        if any(secret and secret in refusal.code + refusal.message for secret in secrets):
            return replace(refusal, code="", message="")
        return refusal

    async def _attempt(
        self, operation: Operation, credentials: Credentials | None, *, fresh: bool
    ) -> Response:
        """Sign an operation, send it on a connection, and return the answer."""
        place = self.endpoint
        headers = {"host": place.host, **operation.headers}
        if self._options.requester_pays:
            headers["x-amz-request-payer"] = "requester"
        if place.tls:
            payload = UNSIGNED
            if operation.name in {"PutObject", "UploadPart"}:
                headers["x-amz-checksum-crc32"] = crc32(operation.body)
        else:
            payload = payload_hash(operation.body) if operation.body else EMPTY
        path = place.path(operation.key)
        if credentials is not None:
            now = time.time() + self._skew
            self._signer.sign(credentials, operation.method, path, operation.query, headers, payload, now)
        target = f"{path}?{operation.query}" if operation.query else path
        request = Request(operation.method, target, headers, operation.body)
        if self._pool is None:
            self._pool = Pool(place.name, place.port, self._tls, self._options.pool)
        admission = self._pool.admission
        async with self._pool.connection(fresh=fresh) as connection:
            epoch = admission.epoch
            self.counters.requests[operation.name] += 1
            if operation.hedge is not None:
                operation.hedge.runs_on(connection)
            began = time.monotonic()

            def note(status: int, found: Mapping[str, str]) -> Sequence[memoryview] | None:
                self._latencies.note(time.monotonic() - began)
                return operation.place(status, found)

            response = await connection.exchange(request, note)
            if response.status in THROTTLED_STATUSES:
                admission.throttled(epoch)
            else:
                admission.answered()
        if operation.body:
            self.counters.sent += sum(memoryview(piece).nbytes for piece in operation.body)
        return response

    def _has_learnt(
        self, response: Response, refusal: documents.Refusal, credentials: Credentials | None
    ) -> bool:
        """Mend what a refusal says is wrong here: region, clock, credentials. True: try again."""
        region = response.headers.get("x-amz-bucket-region") or refusal.region
        # It becomes part of a host's name.
        sensible = REGION.fullmatch(region) is not None and region != self._signer.region
        if response.status in {301, 307, 400, 403} and sensible:
            return self._move(region)
        if refusal.code == "RequestTimeTooSkewed" and "date" in response.headers:
            try:
                skew = answers.modified(response.headers["date"]) / 1e9 - time.time()
            except BrokenAnswerError:
                return False
            learnt = abs(skew - self._skew) > 1
            self._skew = skew
            return learnt
        if refusal.code in {"ExpiredToken", "TokenRefreshRequired"} and credentials is not None:
            return self._keychain.renew(credentials)
        return False

    def _move(self, region: str) -> bool:
        """Go on in another region; at a server of a given URL only the signature changes."""
        options = self._options
        self._signer = Signer(region)
        moved = endpoint(options.bucket, region, url=options.url, addressing=options.addressing)
        if moved != self.endpoint:
            self.endpoint = moved
            self._pool = None
        return True


def _refusal(operation: Operation, response: Response) -> documents.Refusal | None:
    """Return what an answer refuses, or None for a success."""
    if response.status in {200, 204, 206}:
        if operation.tells_errors_late and b"<Error" in response.body[:512]:
            return documents.refusal(bytes(response.body))
        return None
    return documents.refusal(bytes(response.body))


def _without_frames(error: StoreError) -> StoreError:
    """Return an error without its traceback, whose frames would keep the memory alive that was read into."""
    return error.with_traceback(None)

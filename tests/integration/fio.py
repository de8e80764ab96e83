"""The program fio, which writes blocks with checksums and reads them back."""


def fio(directory: str, options: str) -> str:
    """Make a command that lets fio write into a directory and check each block; it fails if one is wrong.

    The blocks differ between directories of different names.
    """
    return (
        f"cd /tmp && fio --name=job --directory={directory} {options} --thread --output-format=terse"
        f" --randseed={sum(directory.encode())} --verify=crc32c --verify_fatal=1 --verify_state_save=0"
    )

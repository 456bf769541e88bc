"""Upload of a folder to the hub, as one commit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from text_to_lora.errors import ConfigError, first_line


def upload_folder(
    write: Callable[[Path], object], repo_id: str, what: str, *, private: bool, token: str | None
) -> str:
    """Write a folder, upload it as one commit of a repository, and give the commit's address.

    write: fills the folder that it is given; what: is uploaded, for the message of the commit

    Raises ConfigError when the hub refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "folder"
        write(folder)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=f"Upload {what}"
            )
        except Exception as error:  # the hub's own, and those of whichever HTTP client it uses
            raise ConfigError(
                f"cannot upload to {repo_id!r}: {first_line(error)}; check the name, the token and "
                "the network"
            ) from error
    return str(commit)

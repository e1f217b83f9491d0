"""The hub's client, with its refusals in one line."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # of the httpx it has

from bm.errors import UserError

Kind = Literal["model", "dataset"]


class Hub:
    """A repository of the hub at `HF_ENDPOINT`, else of huggingface.co, with the token of the environment or login."""

    def __init__(self, repo: str, kind: Kind) -> None:
        self.repo, self.kind = repo, kind
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))

    def private(self) -> bool | None:
        """Whether the repository is private; None: there is none yet."""
        with self._refusals():
            try:
                return bool(self._api.repo_info(self.repo, repo_type=self.kind).private)
            except RepositoryNotFoundError as problem:
                if problem.response.status_code == 401:
                    raise
                return None

    def create(self, private: bool) -> None:
        with self._refusals():
            self._api.create_repo(self.repo, repo_type=self.kind, private=private, exist_ok=True)

    def make_public(self) -> None:
        with self._refusals():
            self._api.update_repo_settings(self.repo, repo_type=self.kind, private=False)

    def commit(self, files: Mapping[str, Path | bytes], message: str) -> str:
        """All files in one commit, so that nobody sees half of them; its address."""
        added = [CommitOperationAdd(name, data) for name, data in files.items()]
        with self._refusals():
            made = self._api.create_commit(self.repo, added, commit_message=message, repo_type=self.kind)
        return str(made.commit_url)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        name = f"repo={self.repo}"
        try:
            yield
        except HFValidationError as problem:
            raise UserError(f"{name}: not a repository name, which is OWNER/NAME") from problem
        except LocalTokenNotFoundError as problem:
            raise UserError(f"{name}: the hub wants a token; `hf auth login`, or set HF_TOKEN") from problem
        except HfHubHTTPError as problem:
            status = problem.response.status_code if problem.response is not None else 0
            told = {401: "the hub does not know the token; `hf auth login`, or set HF_TOKEN",
                    403: "the token may not write there"}  # fmt: skip
            said = (problem.server_message or str(problem)).strip().splitlines()[0]
            raise UserError(f"{name}: {told.get(status, f'the hub refuses: {said}')}") from problem
        except (TransportError, OSError, RuntimeError) as problem:
            cause = problem.__cause__ or problem
            line = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            raise UserError(f"{name}: the hub cannot be reached: {line}; rerun the command to resume") from problem

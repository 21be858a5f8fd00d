"""Models that lie on the Hugging Face Hub: fetched when a user names one, JSON and safetensors alone."""

from __future__ import annotations

from pathlib import Path

from c2lst._logging import logger

HUB = "hf:"  # how a registered source says it lies on the Hub: hf:owner/repository
PATTERNS = [
    "model_index.json",
    "c2lst_card.json",
    "*/config.json",
    "*/scheduler_config.json",
    "*/diffusion_pytorch_model.safetensors",
    "*/diffusion_pytorch_model.safetensors.index.json",
    "*/diffusion_pytorch_model-*-of-*.safetensors",
]


def fetch(name: str, repository: str, *, terms: str, revision: str | None = None) -> Path:
    """Return the directory of `repository` (owner/name) in the Hub's own cache, fetching what is not there yet.

    Raises
    ------
    PermissionError
        It is gated and access was not granted yet.
    ValueError
        There is no such repository or revision.
    ConnectionError
        The Hub cannot be reached and the model was not fetched before.
    """
    import huggingface_hub
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repository}"
    at = "" if revision is None else f" at {revision!r}"
    logger.warning("%r comes from %s%s. Terms: %s.", name, page, at, terms)
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=PATTERNS))
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{name!r} is gated: ask for access at {page} with your account, then log in with `hf auth login` (or set "
            "HF_TOKEN) and call again."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{page} has no revision {revision!r}; its commits are at {page}/commits/main.") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{page} is not found: it is gone, renamed or private. If it is yours, log in with `hf auth login`."
        ) from error
    except (
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        errors.HfHubHTTPError,
        ConnectionError,
        TimeoutError,
    ) as error:
        raise ConnectionError(
            f"{name!r} was not fetched: {page} cannot be reached from here, and what it needs is not in the cache of the "
            "Hub. Fetch it where there is a network, copy its directory here and pass that to "
            f"CentralModel.from_pretrained. ({type(error).__name__}: {error})"
        ) from error

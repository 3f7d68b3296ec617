"""Hub files against the real client, without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffreid_lightning.errors import UserError
from diffreid_lightning.storage import hub


def test_unreachable_hub_is_noticed_by_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client; port 9 of this machine answers nobody."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot be reached") as caught:
        hub.hub_file("owner/name", "model.safetensors")
    assert str(tmp_path) in str(caught.value)


def test_malformed_repository_is_the_users() -> None:
    with pytest.raises(UserError, match="is not available"):
        hub.hub_file("a/b/c", "config.json")

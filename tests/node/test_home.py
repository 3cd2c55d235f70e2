"""The home: private, held by one, made again from whatever a crash left of its making."""

import json
import os
import stat
from pathlib import Path

import pytest

from molia.base.config import Config, StoreConfig
from molia.base.errors import HomeLocked, HomeUnsafe, MoliaError, NotInitialised
from molia.node.home import (
    check_private,
    home_lock,
    init_home,
    quota_of,
    remove_node_file,
    store_path,
    write_node_file,
)
from molia.node.identity import (
    make_identity,
    make_token,
    read_identity,
    read_network_secret,
    read_token,
    write_secret,
)
from molia.node.system import SystemEntropy
from molia.store.os_disk import OsDisk
from molia.store.superblock import read_superblock

CONFIG = Config(store=StoreConfig(shards=2, quota_bytes=1 << 30))
SECRETS = ("identity.key", "api.token")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init_home(tmp_path / "home", CONFIG, "# settings\n")
    return tmp_path / "home"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_network_has_a_secret_that_is_made_once(home: Path) -> None:
    assert read_network_secret(home) == b"", "an open network has none"
    init_home(home, CONFIG, "", private=True)
    secret = read_network_secret(home)
    assert len(secret) == 32
    assert mode_of(home / "network.key") == 0o600
    init_home(home, CONFIG, "", private=True)
    assert read_network_secret(home) == secret
    (home / "network.key").chmod(0o644)
    with pytest.raises(HomeUnsafe, match="can be read by others"):
        read_network_secret(home)
    (home / "network.key").chmod(0o600)
    (home / "network.key").write_text("molia-network-1 12ab\n")
    with pytest.raises(HomeUnsafe, match="not a network's secret"):
        read_network_secret(home)


def test_init_again_changes_nothing(home: Path) -> None:
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    again = init_home(home, Config(store=StoreConfig(shards=4)), "other")
    assert not again.created
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    assert mode_of(home) == mode_of(home / "data") == 0o700
    assert {mode_of(path) for path in before} == {0o600}
    assert read_superblock(OsDisk(str(home / "data"))).shard_count == 2


@pytest.mark.parametrize("lost", ["molia.toml", "api.token", "store.json", "data/STORE", "LOCK"])
def test_init_makes_what_is_missing_and_keeps_the_identity(home: Path, lost: str) -> None:
    peer = read_identity(home).peer_key
    (home / lost).unlink()
    init_home(home, CONFIG, "# settings\n")
    assert (home / lost).exists()
    assert read_identity(home).peer_key == peer


@pytest.mark.parametrize("name", SECRETS)
def test_half_a_secret_of_a_crash_is_no_secret(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / f"{name}.tmp").write_text("half")
    init_home(home, CONFIG, "")
    assert not (home / f"{name}.tmp").exists()
    read_identity(home)
    assert len(read_token(home)) == 64


def test_an_existing_secret_is_never_replaced(tmp_path: Path) -> None:
    make_identity(tmp_path, SystemEntropy())
    make_token(tmp_path, SystemEntropy())
    before = [(tmp_path / name).read_bytes() for name in SECRETS]
    make_identity(tmp_path, SystemEntropy())
    make_token(tmp_path, SystemEntropy())
    write_secret(tmp_path / SECRETS[0], "other")
    assert [(tmp_path / name).read_bytes() for name in SECRETS] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(SECRETS)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_others_can_read_is_refused(home: Path, name: str) -> None:
    (home / name).chmod(0o640)
    with pytest.raises(HomeUnsafe, match="can be read by others"):
        (read_identity if name == SECRETS[0] else read_token)(home)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"molia-identity-1 zz", b"molia-identity-1 " + b"00" * 31,
     b"molia-identity-2 " + b"00" * 32, b"00" * 32, b"x" * 100_000],
)  # fmt: skip
def test_a_damaged_identity_is_refused(home: Path, content: bytes) -> None:
    (home / "identity.key").write_bytes(content)
    with pytest.raises(HomeUnsafe):
        read_identity(home)


def test_a_missing_secret_or_home_is_not_initialised(home: Path) -> None:
    (home / "identity.key").unlink()
    with pytest.raises(NotInitialised):
        read_identity(home)
    with pytest.raises(NotInitialised):
        check_private(home / "nowhere")


def test_a_home_must_be_a_directory_closed_to_others(home: Path) -> None:
    for mode in (0o701, 0o710, 0o770, 0o755):
        home.chmod(mode)
        with pytest.raises(HomeUnsafe, match="open to other users"):
            check_private(home)
    home.chmod(0o700)
    check_private(home)
    with pytest.raises(HomeUnsafe, match="not a directory"):
        check_private(home / "molia.toml")
    with pytest.raises(MoliaError):
        init_home(home / "molia.toml" / "below", CONFIG, "")


def test_a_home_is_held_by_one(home: Path) -> None:
    with home_lock(home):
        with pytest.raises(HomeLocked), home_lock(home):
            pass
        with pytest.raises(HomeLocked):
            init_home(home, CONFIG, "")
    with home_lock(home):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"quota_bytes": "x"}', '{"quota_bytes": -1}'])
def test_a_damaged_quota_record_is_refused_unless_a_setting_says_it(
    home: Path, content: str
) -> None:
    (home / "store.json").write_text(content)
    with pytest.raises(HomeUnsafe):
        quota_of(home, Config())
    assert quota_of(home, CONFIG) == 1 << 30
    (home / "store.json").unlink()
    with pytest.raises(NotInitialised):
        quota_of(home, Config())
    init_home(home, CONFIG, "")
    assert quota_of(home, Config()) == 1 << 30


def test_the_store_may_lie_elsewhere(tmp_path: Path) -> None:
    config = Config(store=StoreConfig(path=str(tmp_path / "disk" / "store"), shards=1))
    init_home(tmp_path / "home", config, "")
    assert store_path(tmp_path / "home", config) == tmp_path / "disk" / "store"
    assert (tmp_path / "disk" / "store" / "STORE").exists()
    assert mode_of(tmp_path / "disk" / "store") == 0o700


def test_the_node_file_tells_where_and_goes(home: Path) -> None:
    (home / "node.json.tmp").write_text("half")
    write_node_file(home, socket="/s", urls=["http://localhost:1"], peer="b5")
    told = json.loads((home / "node.json").read_text())
    assert (told["pid"], told["socket"], told["urls"]) == (
        os.getpid(),
        "/s",
        ["http://localhost:1"],
    )
    assert told["token_file"] == str(home / "api.token")
    assert mode_of(home / "node.json") == 0o600
    remove_node_file(home)
    remove_node_file(home)
    assert not (home / "node.json").exists()

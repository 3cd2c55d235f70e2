"""Settings: where they come from, what they may be, and that nothing else comes out."""

import dataclasses
import tomllib
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base.config import Config
from molia.base.errors import BadConfig
from molia.cli import fields, quantities
from molia.cli.environment import home_path
from molia.cli.quantities import BadValue, parse_duration_s, parse_size_bytes
from molia.cli.settings import CONFIG_NAME, load, toml_text, toml_value


def written(tmp_path: Path, text: str | bytes) -> Path:
    body = text.encode() if isinstance(text, str) else text
    (tmp_path / CONFIG_NAME).write_bytes(body)
    return tmp_path


def origin_of(home: Path, name: str, **sources: dict[str, object]) -> tuple[object, str]:
    loaded = load(home, environ={}, **sources)  # type: ignore[arg-type]
    return next((s.value, s.origin) for s in loaded.settings if s.name == name)


def test_without_any_source_the_defaults_hold(tmp_path: Path) -> None:
    loaded = load(tmp_path, environ={})
    assert loaded.config == Config()
    assert {setting.origin for setting in loaded.settings} == {"default"}


def test_flags_go_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    home = written(tmp_path, 'network = "file"\n[leases]\nsweep_s = "5m"\n[log]\nlevel = "debug"\n')
    loaded = load(
        home,
        environ={"MOLIA_NETWORK": "environment", "MOLIA_LEASES__SWEEP_S": "2m"},
        flags={"network": ("--network", "flag"), "workers": ("--workers", None)},
    )
    chosen = {setting.name: (setting.value, setting.origin) for setting in loaded.settings}
    assert chosen["network"] == ("flag", "--network")
    assert chosen["leases.sweep_s"] == (120, "MOLIA_LEASES__SWEEP_S")
    assert chosen["log.level"] == ("debug", str(home / CONFIG_NAME))
    assert chosen["workers"] == (0, "default")
    assert loaded.config.leases.sweep_s == 120
    assert loaded.config.network == "flag"


def test_a_unit_may_be_left_off_a_name(tmp_path: Path) -> None:
    home = written(tmp_path, "[leases]\nsweep = 90\n")
    loaded = load(home, environ={"MOLIA_STORE__QUOTA": "10GiB"})
    assert loaded.config.store.quota_bytes == 10 * 1024**3
    assert loaded.config.leases.sweep_s == 90


@pytest.mark.parametrize(
    ("text", "complaint", "hint"),
    [
        ("netwrok = 'x'", "netwrok: no such setting", "did you mean network?"),
        ("[store]\nquota_byte = 1", "store.quota_byte: no such", "did you mean store.quota_bytes?"),
        ("[zebra]\nx = 1", "zebra: no such setting", ""),
        ("store = 3", "store: must be a table", "write [store]"),
        ("workers = 'two'", "workers: must be a whole number", ""),
        ("workers = true", "workers: must be a whole number", ""),
        ("workers = 1.0", "workers: must be a whole number", ""),
        ("workers = 65", "workers: must be 0 to 16", ""),
        ("network = 5", "network: must be a text", ""),
        ("network = ''", "network: must be 1 to 64 bytes", ""),
        ('network = "a\\u0000b"', "network: must not hold control", ""),
        ("[api]\nlisten = [1]", "api.listen: must be a text", ""),
        ("[api]\nlisten = 1", "api.listen: must be a list", ""),
        ("[api]\nauth = 'none'", "api.auth: must be local or required", ""),
        ("[store]\nquota_bytes = '10 GB?'", "store.quota_bytes: must be a size", ""),
        ("[store]\nquota_bytes = 5", "store.quota_bytes: must be 0, or at least 256 MiB", ""),
        ("[leases]\ndefault_s = '1 fortnight'", "leases.default_s: must be a time", ""),
        ("[leases]\nsweep = 1\nsweep_s = 1", "leases.sweep_s: is set twice", ""),
        ("network = ", "must be TOML", ""),
        (b"network = '\xff'", "must be UTF-8", ""),
        ("workers = " + "1" * 5000, "must be TOML", ""),
        ("a = " + "[" * 3000, "must", ""),
        ("# " + "x" * (1 << 20), "must be at most", ""),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(
    tmp_path: Path, text: str | bytes, complaint: str, hint: str
) -> None:
    home = written(tmp_path, text)
    with pytest.raises(BadConfig) as caught:
        load(home, environ={})
    assert complaint in caught.value.message
    assert str(home / CONFIG_NAME) in caught.value.message
    assert "\n" not in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("MOLIA_NETWROK", "x", "did you mean MOLIA_NETWORK?"),
        ("MOLIA_STORE__QUOTTA_BYTES", "1GiB", "did you mean MOLIA_STORE__QUOTA_BYTES?"),
        ("MOLIA_WORKERS", "1.5", ""),
        ("MOLIA_API__AUTH", "maybe", ""),
        ("MOLIA_NETWORK", "\udcff", ""),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, name: str, value: str, hint: str) -> None:
    with pytest.raises(BadConfig) as caught:
        load(tmp_path, environ={name: value})
    assert name in caught.value.message
    assert hint in caught.value.hint


def test_a_wrong_flag_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"workers: must be 0 to 16, not 65 \(--workers\)"):
        load(tmp_path, environ={}, flags={"workers": ("--workers", 65)})


def test_what_orchestrators_set_is_no_setting(tmp_path: Path) -> None:
    environ = {
        "MOLIA_PORT": "tcp://10.0.0.1:7070",
        "MOLIA_SERVICE_HOST": "10.0.0.1",
        "MOLIA_SERVICE_PORT_HTTP": "7070",
        "MOLIA_PORT_7070_TCP_ADDR": "10.0.0.1",
        "MOLIA_HOME": "/x",
        "MOLIA_NODE": "unix:/x",
        "MOLIA_TOKEN": "t",
    }
    assert load(tmp_path, environ=environ).config == Config()


def test_lists_come_from_arrays_and_from_commas(tmp_path: Path) -> None:
    home = written(tmp_path, '[api]\nlisten = ["127.0.0.1:1", "[::1]:1"]\n')
    config = load(home, environ={"MOLIA_API__ALLOWED_HOSTS": "a.example, b.example,"}).config
    assert config.api.listen == ("127.0.0.1:1", "[::1]:1")
    assert config.api.allowed_hosts == ("a.example", "b.example")


def test_the_written_file_sets_nothing_and_explains_everything(tmp_path: Path) -> None:
    text = toml_text()
    assert load(written(tmp_path, text), environ={}).config == Config()
    assert all(line.startswith(("#", "[")) or not line for line in text.splitlines())
    for kind in [Config, *fields.sections().values()]:
        docs = fields.field_docs(kind)
        for name in {field.name for field in dataclasses.fields(kind)} - set(fields.sections()):
            assert docs[name].strip(), f"{kind.__name__}.{name} has no docstring"
            assert docs[name].splitlines()[0] in text


def test_every_line_of_the_written_file_takes_effect_without_its_hash(tmp_path: Path) -> None:
    names = {name.rpartition(".")[2] for name in fields.all_fields()}
    lines = [
        line.removeprefix("#") if line[1:].partition(" = ")[0] in names else line
        for line in toml_text().splitlines()
    ]
    home = written(tmp_path, "\n".join(lines))
    loaded = load(home, environ={})
    assert loaded.config == Config()
    assert {setting.origin for setting in loaded.settings} == {str(home / CONFIG_NAME)}


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("10GiB", 10 << 30), ("10 GB", 10**10), ("1.5MiB", 3 << 19), ("2k", 2000),
     ("0", 0), ("7b", 7), (" 1tib ", 1 << 40)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("2h", 7200), ("30d", 2_592_000), ("90", 90), ("1.5h", 5400), ("5 min", 300)],
)
def test_times(text: str, seconds: int) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1e3", "GiB", "10 XB", "1..5", "٣", "inf", "1" * 30])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(BadValue):
        parse_size_bytes(text)


@given(
    whole=st.integers(0, 10**19),
    fraction=st.text("0123456789", max_size=9),
    unit=st.sampled_from(sorted(quantities.BYTE_UNITS)),
)
def test_a_size_is_its_exact_product_rounded_down(whole: int, fraction: str, unit: str) -> None:
    number = f"{whole}.{fraction}" if fraction else str(whole)
    exact = Fraction(number) * quantities.BYTE_UNITS[unit]
    assert parse_size_bytes(number + unit) == int(exact)


plain = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]))


@given(value=plain | st.integers() | st.booleans() | st.lists(plain).map(tuple))
def test_a_value_reads_back_as_it_is_written(value: object) -> None:
    read = tomllib.loads(f"x = {toml_value(value)}")["x"]
    assert (tuple(read) if isinstance(read, list) else read) == value


names = st.sampled_from([*fields.all_fields(), "store", "api.nothing", "x", "store.quota"])
values = (
    st.text(st.characters(codec="utf-8"), max_size=20)
    | st.integers()
    | st.booleans()
    | st.sampled_from(["10GiB", "30d", "required", "1"])
    | st.lists(st.text(max_size=5) | st.integers(), max_size=3).map(tuple)
)


@settings(max_examples=300, deadline=None)
@given(entries=st.dictionaries(names, values, max_size=4), tail=st.binary(max_size=20))
def test_any_file_gives_a_configuration_or_bad_config(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[str, object], tail: bytes
) -> None:
    lines = [f"{name.replace('.', ' . ')} = {toml_value(value)}" for name, value in entries.items()]
    body = "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n" + tail
    home = written(tmp_path_factory.getbasetemp(), body)
    refusals: list[str] = []
    try:
        config = load(home, environ={}).config
    except BadConfig as error:
        refusals.append(error.message)
        return
    finally:
        assert all(message.isprintable() for message in refusals)
    assert isinstance(config, Config)


@settings(max_examples=300, deadline=None)
@given(
    environ=st.dictionaries(
        st.sampled_from([f"MOLIA_{n.upper().replace('.', '__')}" for n in fields.all_fields()])
        | st.text(max_size=8).map(lambda text: f"MOLIA_{text}"),
        st.text(max_size=30) | st.sampled_from(["1", "10GiB", "1h", "debug"]),
        max_size=3,
    )
)
def test_any_environment_gives_a_configuration_or_bad_config(environ: dict[str, str]) -> None:
    refusals: list[str] = []
    try:
        config = load(Path("/nonexistent"), environ=environ).config
    except BadConfig as error:
        refusals.append(error.message)
        return
    finally:
        assert all(message.isprintable() for message in refusals)
    assert isinstance(config, Config)


def test_the_home_is_the_flag_the_variable_or_the_platforms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", "/users/u")
    assert home_path("/flag", {"MOLIA_HOME": "/variable"}) == Path("/flag")
    assert home_path(None, {"MOLIA_HOME": "/variable"}) == Path("/variable")
    assert home_path(None, {"XDG_DATA_HOME": "/data"}) == Path("/data/molia")
    assert home_path(None, {"XDG_DATA_HOME": "relative"}) == Path("/users/u/.local/share/molia")
    assert home_path(None, {"MOLIA_HOME": ""}) == Path("/users/u/.local/share/molia")
    assert home_path("here", {}).is_absolute()
    monkeypatch.setattr("sys.platform", "darwin")
    assert home_path(None, {}) == Path("/users/u/Library/Application Support/molia")


def test_a_settings_file_that_is_a_directory_or_unreadable_is_refused(tmp_path: Path) -> None:
    (tmp_path / CONFIG_NAME).mkdir()
    with pytest.raises(BadConfig, match="must be a file"):
        load(tmp_path, environ={})

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.keys import digest_of
from app.settings import Settings
from app.store.store import Store


def run(*args: object, **env: str):
    return CliRunner().invoke(cli, ["keys", *map(str, args)], env=env)


def stored(data_dir: Path):
    store = Store.open(Settings(data_dir=data_dir).database_path)
    try:
        return store.list_keys()
    finally:
        store.close()


def test_a_made_key_is_printed_alone_and_said_to_be_shown_once(tmp_path: Path) -> None:
    made = run("create", "--scope", "read", "--scope", "generate", "--data-dir", tmp_path)
    assert made.exit_code == 0
    assert re.fullmatch(r"nw_[A-Za-z0-9_-]{43}\n", made.stdout)
    (key,) = stored(tmp_path)
    assert made.stderr == f"{key.id} opens generate, read; it is not shown again\n"
    assert (key.digest, key.scopes) == (digest_of(made.stdout.strip()), {"read", "generate"})


def test_the_list_shows_what_each_opens_and_no_key(tmp_path: Path) -> None:
    made = run("create", "--scope", "admin", "--name", "Ada", "--data-dir", tmp_path, "--json")
    about = json.loads(made.stdout)
    run("create", "--scope", "train", "--days", 3, "--data-dir", tmp_path)
    assert run("revoke", about["id"], "--data-dir", tmp_path).exit_code == 0
    rows = json.loads(run("list", "--json", "--data-dir", tmp_path).stdout)
    assert [(r["name"], r["scopes"], r["state"]) for r in rows] == [
        ("Ada", ["admin"], "revoked"),
        ("", ["train"], "valid"),
    ]
    table = run("list", "--data-dir", tmp_path).stdout
    assert "Ada" in table
    for secret in (about["key"], digest_of(about["key"])):
        assert secret not in table + json.dumps(rows)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("create", "--scope", "root"), "expected one of generate, read, train, admin"),
        (("create", "--scope", "read", "--name", "a\nb"), "printable characters"),
        (("create", "--scope", "read", "--name", "a" * 65), "at most 64"),
        (("revoke", "key_0"), "Key 'key_0' does not exist; noisewell keys list shows all"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_changes_nothing(
    tmp_path: Path, args: tuple[str, ...], told: str
) -> None:
    result = run(*args, "--data-dir", tmp_path)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert stored(tmp_path) == []


def test_the_data_folder_is_that_of_the_environment(tmp_path: Path) -> None:
    run("create", "--scope", "read", NOISEWELL_DATA_DIR=str(tmp_path / "there"))
    assert len(stored(tmp_path / "there")) == 1

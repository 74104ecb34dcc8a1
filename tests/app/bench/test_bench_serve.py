import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from app.bench.serve import Pace, cli, ideal_per_sec, measured, shown
from app.bench.wire import Target
from app.cli import cli as noisewell

PACE = Pace(window_sec=0.05, max_windows=3, bare_sec=0)
BARE = [
    {"threads": 1, "generator": {"1": 100.0, "64": 1000.0}, "encoder": 500.0},
    {"threads": 2, "generator": {"1": 200.0, "64": 900.0}, "encoder": 400.0},
]


class Handler(BaseHTTPRequestHandler):
    """A service that has every image ready."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        known = self.headers["if-none-match"] == '"tag"'
        self._answer(304 if known else 200, b"" if known else b"\x89PNG")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._answer(200 if asked["n"] == 64 and asked["response"] == "npy" else 422, b"x" * 64)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("x-model-version", "3")
        self.send_header("etag", '"tag"')
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def target() -> Iterator[Target]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Target("127.0.0.1", server.server_address[1])
        server.shutdown()
        thread.join()


def test_the_ideal_is_what_parts_in_a_row_could_do():
    assert ideal_per_sec(1000, 1000) == pytest.approx(500)
    assert ideal_per_sec(6000, 3000, 2000) == pytest.approx(1000)


def test_every_figure_is_measured_and_set_beside_its_ideal(target: Target):
    steps: list[str] = []
    report = measured(target, "toy", PACE, steps.append)
    assert report.ref == "toy@3"
    assert sorted(report.png) == [1, 8, 64]
    assert list(report.not_modified.windows.statuses) == [304]
    assert report.npy.images_per_sec == pytest.approx(64 * report.npy.per_sec)
    figures = [*report.png.values(), report.not_modified, report.npy]
    assert [figure.windows.failed for figure in figures] == [0] * 5
    assert len(steps) == 5
    assert report.shares() == dict.fromkeys(report.shares())  # nothing is known of the parts

    whole = replace(report, static=report.png[1], bare=BARE)
    assert (whole.generator, whole.encoder) == (1000, 500)
    assert whole.ideal == pytest.approx(ideal_per_sec(1000, 500, report.png[1].per_sec))
    assert whole.shares()["npy_of_generator"] == round(report.npy.images_per_sec / 1000, 3)
    assert json.loads(json.dumps(whole.to_json()))["bare"] == BARE
    assert "toy@3" in shown(whole)
    assert "of ideal" in shown(whole)


def test_a_model_that_is_not_there_is_told_in_one_line():
    result = CliRunner().invoke(cli, ["--url", "http://127.0.0.1:1"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("Error: 127.0.0.1:1: ")


def test_an_address_of_another_kind_is_refused():
    result = CliRunner().invoke(cli, ["--url", "https://example.com"])
    assert result.exit_code == 2
    assert "expected such as http://127.0.0.1:8000" in result.stderr


@pytest.mark.parametrize(
    ("args", "module"),
    [
        (["serve", "--quick", "--json"], "app.bench.serve"),
        (["train", "--preset", "cpu28"], "training.bench"),
        (["--help"], "training.bench"),
    ],
)
def test_serve_is_measured_here_and_everything_else_by_training(
    args: list[str], module: str, monkeypatch: pytest.MonkeyPatch
):
    called: list[list[str]] = []
    monkeypatch.setattr("app.cli.run_child", lambda *command: called.append([*command]) or 3)
    result = CliRunner().invoke(noisewell, ["bench", *args])
    passed_on = args[1:] if module == "app.bench.serve" else args
    assert called == [[module, passed_on]]
    assert result.exit_code == 3
    assert ("noisewell bench serve" in result.stdout) == (args == ["--help"])

"""Who may import whom, and what nobody may: read from the source, not from what happens to run."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(p for top in ("app", "training") for p in (ROOT / top).rglob("*.py"))
DOOR = ("training.model",)


def modules_imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_in(module: str, *packages: str) -> bool:
    return any(module == p or module.startswith(f"{p}.") for p in packages)


def files(*tops: str) -> list[Path]:
    return [p for p in PACKAGES if is_in(".".join(p.relative_to(ROOT).parts), *tops)]


def test_the_door_imports_only_itself_and_no_web_framework():
    for path in files(*DOOR):
        for module in modules_imported(path):
            assert not is_in(module, "app", "fastapi", "pydantic", "starlette"), (path, module)
            assert not is_in(module, "training") or is_in(module, *DOOR), (path, module)


def test_training_knows_nothing_of_the_service():
    for path in files("training"):
        for module in modules_imported(path):
            assert not is_in(module, "app", "fastapi", "pydantic"), (path, module)


def test_training_runs_where_there_is_torch_and_little_else():
    theirs = {"torch", "numpy", "PIL", "safetensors", "rich", "typer"}
    for path in files("training"):
        tops = {module.partition(".")[0] for module in modules_imported(path)}
        assert tops - set(sys.stdlib_module_names) - {"training"} <= theirs, path


def test_the_service_reaches_training_only_through_the_door():
    for path in files("app"):
        for module in modules_imported(path):
            assert not is_in(module, "training") or is_in(module, *DOOR), (path, module)


def test_the_registry_needs_no_torch():
    names = ("registry", "manifest", "rules", "files", "presets", "settings", "threads")
    for name in (f"{name}.py" for name in names):
        path = ROOT / "training" / "model" / name
        assert not any(is_in(m, "torch", "safetensors") for m in modules_imported(path)), path


@pytest.mark.parametrize("path", PACKAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unpickles_evaluates_or_runs_a_shell(path):
    source = ast.parse(path.read_text("utf-8"))
    banned_modules = ("pickle", "dill", "joblib", "shelve", "marshal", "torchvision", "yaml")
    for module in modules_imported(path):
        assert not is_in(module, *banned_modules), module
    for node in ast.walk(source):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("eval", "exec", "torch.load", "torch.save", "os.system"), name
            for keyword in node.keywords:
                value = ast.unparse(keyword.value)
                assert (keyword.arg, value) not in (("shell", "True"), ("allow_pickle", "True"))
            if name in ("np.load", "numpy.load"):
                assert any(k.arg == "allow_pickle" for k in node.keywords), name


def test_only_settings_read_configuration_from_the_environment():
    # These two hand a child the environment, with parts of it taken away.
    scrub = {"app/supervisor.py", "app/children.py"}
    for path in PACKAGES:
        name = str(path.relative_to(ROOT))
        if name not in scrub | {"app/settings.py"}:
            text = path.read_text("utf-8")
            assert not re.search(r"\benviron\b|\bgetenv\b", text), name


def test_packages_open_empty():
    for top in ("app", "training"):
        for path in (ROOT / top).rglob("__init__.py"):
            assert path.read_text() == "", path


@pytest.mark.parametrize("path", PACKAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_in_a_sentence_what_it_owns(path):
    if path.name == "__init__.py":
        return
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert docstring, path
    assert docstring.splitlines()[0].startswith("Owns "), path


def test_middleware_is_plain_asgi():
    for path in files("app"):
        assert not any("BaseHTTPMiddleware" in m for m in modules_imported(path)), path


def test_dependencies_stay_few():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "torch==2.13.0" in project["dependencies"]
    assert len(project["dependencies"]) <= 20

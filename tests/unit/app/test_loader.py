from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from zmqtasks.app.loader import load_app
from zmqtasks.app.spec import find_spec
from zmqtasks.errors import AppLoadError

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """``write(name, text)`` makes a module that disappears after the test."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, text: str) -> str:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"from zmqtasks import App\n{text}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def refusal(spec: str, cwd: Path) -> AppLoadError:
    with pytest.raises(AppLoadError) as caught:
        load_app(spec, cwd)
    return caught.value


class TestFinding:
    def test_what_was_named_wins(self, tmp_path: Path) -> None:
        assert find_spec("shop.work", tmp_path) == "shop.work"

    @pytest.mark.parametrize("file", ["tasks.py", "tasks/__init__.py"])
    def test_tasks_here_is_found(self, tmp_path: Path, file: str) -> None:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.touch()
        assert find_spec("", tmp_path) == "tasks"

    def test_message_says_what_was_looked_for(self, tmp_path: Path) -> None:
        with pytest.raises(AppLoadError) as caught:
            find_spec("", tmp_path)
        for place in ("--app", "ZMQTASKS_APP", "zmqtasks.toml", str(tmp_path / "tasks.py")):
            assert place in str(caught.value)


class TestLoading:
    def test_app_in_the_working_directory(self, write: Write, tmp_path: Path) -> None:
        assert load_app(write("load_a", "app = App('one')"), tmp_path).name == "one"

    def test_app_in_a_package(self, write: Write, tmp_path: Path) -> None:
        assert load_app(write("load_pkg.work", "app = App('one')"), tmp_path).name == "one"

    def test_only_app_under_any_name(self, write: Write, tmp_path: Path) -> None:
        assert load_app(write("load_b", "shop = same = App('one')"), tmp_path).name == "one"

    def test_name_app_is_preferred(self, write: Write, tmp_path: Path) -> None:
        text = "other = App('two')\napp = App('one')"
        assert load_app(write("load_c", text), tmp_path).name == "one"

    def test_attribute_is_followed(self, write: Write, tmp_path: Path) -> None:
        text = "class box: inner = App('two')\napp = App('one')"
        name = write("load_d", text)
        assert load_app(f"{name}:box.inner", tmp_path).name == "two"


class TestRefusals:
    def test_missing_module_names_it_and_the_directory(self, tmp_path: Path) -> None:
        error = refusal("load_missing", tmp_path)
        assert "'load_missing'" in str(error)
        assert str(tmp_path) in str(error)
        assert error.traceback == ""

    def test_missing_module_in_a_package_names_what_is_missing(
        self, write: Write, tmp_path: Path
    ) -> None:
        write("load_pkg2.there", "")
        assert "'load_pkg2.gone'" in str(refusal("load_pkg2.gone", tmp_path))

    def test_missing_dependency_is_shown_with_the_line_that_wants_it(
        self, write: Write, tmp_path: Path
    ) -> None:
        error = refusal(write("load_e", "import no_such_dependency"), tmp_path)
        assert "importing 'load_e' failed: ModuleNotFoundError" in str(error)
        assert "import no_such_dependency" in error.traceback
        assert "importlib" not in error.traceback

    def test_syntax_error_is_shown(self, write: Write, tmp_path: Path) -> None:
        error = refusal(write("load_f", "def broken(:"), tmp_path)
        assert "SyntaxError" in str(error)
        assert "def broken(:" in error.traceback
        assert "importlib" not in error.traceback, "how it came to be read says nothing"

    def test_several_apps_are_listed(self, write: Write, tmp_path: Path) -> None:
        name = write("load_g", "one = App('one')\ntwo = App('two')")
        message = str(refusal(name, tmp_path))
        assert f"--app {name}:one, --app {name}:two" in message

    def test_module_without_app_says_how_to_make_one(self, write: Write, tmp_path: Path) -> None:
        assert "zmqtasks.App('name')" in str(refusal(write("load_h", "app = 5"), tmp_path))

    @pytest.mark.parametrize(("attribute", "what"), [("gone", "does not exist"), ("n", "is a int")])
    def test_wrong_attribute_is_named(
        self, write: Write, tmp_path: Path, attribute: str, what: str
    ) -> None:
        name = write("load_i", "n = 5\napp = App('one')")
        message = str(refusal(f"{name}:{attribute}", tmp_path))
        assert f"{name}:{attribute} {what}" in message
        assert f"--app {name}:app" in message

    @pytest.mark.parametrize(("spec", "better"), [("tasks.py", "tasks"), ("a/b.py", "a.b")])
    def test_file_name_is_turned_into_a_module(
        self, tmp_path: Path, spec: str, better: str
    ) -> None:
        assert f"--app {better}" in str(refusal(spec, tmp_path))

    @pytest.mark.parametrize("spec", ["1abc", "a b", "a..b", "a:b c", "a:"])
    def test_nonsense_is_refused(self, tmp_path: Path, spec: str) -> None:
        refusal(spec, tmp_path)

"""Settings whose text means more than one value."""

import pytest
from pydantic import ValidationError

from app.settings import Settings


@pytest.mark.parametrize("text", ["fd_errors=2,class_kept=.5", " fd_errors=2, class_kept=.5 "])
def test_rules_of_promotion_are_read_from_one_variable(monkeypatch, text):
    monkeypatch.setenv("NOISEWELL_PROMOTION_RULES", text)
    assert Settings().promotion_rules == ("fd_errors=2", "class_kept=.5")


def test_there_are_no_rules_but_the_defaults_unless_some_are_set(monkeypatch):
    assert Settings().promotion_rules == ()
    monkeypatch.setenv("NOISEWELL_PROMOTION_RULES", "")
    assert Settings().promotion_rules == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("coverage=1", "rule 'coverage' does not exist; rules: fd_errors, loss_errors"),
        ("fd_errors=99", "rule fd_errors is 99.0; expected 0 to 10"),
        ("strict", "rule 'strict'; expected name=value, such as fd_errors=2"),
    ],
)
def test_a_service_with_rules_that_cannot_be_meant_does_not_start(monkeypatch, text, told):
    monkeypatch.setenv("NOISEWELL_PROMOTION_RULES", text)
    with pytest.raises(ValidationError, match=told):
        Settings()

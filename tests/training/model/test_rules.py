"""The rules of promotion as people write them."""

import pytest

from training.model.rules import Rules, parse_rules


def test_nothing_said_means_the_defaults():
    assert parse_rules([]) == Rules()


def test_rules_are_read_as_they_are_written():
    rules = parse_rules(["fd_errors=2", " class_kept = .5 ", "max_memorised=1e-1"])
    assert rules == Rules(fd_errors=2, class_kept=0.5, max_memorised=0.1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fd_errors", "rule 'fd_errors'; expected name=value, such as fd_errors=2"),
        ("fd=2", "rule 'fd' does not exist; rules: fd_errors, loss_errors, accuracy_loss, "
         "class_kept, max_memorised"),
        ("fd_errors=many", "rule fd_errors is 'many'; expected 0 to 10"),
        ("fd_errors=-1", "rule fd_errors is -1.0; expected 0 to 10"),
        ("fd_errors=nan", "rule fd_errors is nan; expected 0 to 10"),
        ("class_kept=1.5", "rule class_kept is 1.5; expected 0 to 1"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_meant_is_refused_by_name(text, told):
    with pytest.raises(ValueError) as error:
        parse_rules([text])
    assert str(error.value) == told

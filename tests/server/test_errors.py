"""What can be wrong at start: each has its exit code, and crosses a process border by its name."""
import pytest
from bert_serving.client.errors import BertServingError
from bert_serving.server import errors
from bert_serving.server.errors import BY_NAME, ConfigError, StartError

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, StartError)]


def test_exit_codes_are_told_apart_and_none_means_success():
    codes = [error.exit_code for error in CLASSES]
    assert len(set(codes)) == len(codes) and 0 not in codes


def test_a_wrong_option_exits_as_argparse_does():
    assert ConfigError.exit_code == 2


@pytest.mark.parametrize("error", CLASSES)
def test_all_can_be_rebuilt_from_their_names(error):
    assert BY_NAME[error.__name__] is error
    assert str(error("what was found")) == "what was found"


def test_they_are_this_projects_errors_and_old_except_clauses_stay_true():
    assert all(issubclass(error, BertServingError) for error in CLASSES)
    assert issubclass(ConfigError, ValueError)

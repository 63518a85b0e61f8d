"""Where the logs go."""

from param_server.places import logs_folder, repository


def test_logs_are_the_repositorys_unless_told_otherwise(tmp_path):
    assert logs_folder({}) == repository() / "logs"
    assert logs_folder({"DDQ_ROOT": str(tmp_path)}) == tmp_path / "logs"
    assert logs_folder({"DDQ_ROOT": ""}) == repository() / "logs"


def test_repository_is_the_one_with_the_models():
    assert (repository() / "models").is_dir()

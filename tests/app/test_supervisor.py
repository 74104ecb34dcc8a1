from app.supervisor import restart_wait_sec


def test_a_worker_is_started_again_at_once_unless_it_keeps_dying() -> None:
    assert [restart_wait_sec(deaths) for deaths in range(6)] == [0, 0, 0.5, 1, 2, 4]
    assert restart_wait_sec(100_000) == 30

from app.metrics import Metrics


def lines(metrics: Metrics) -> dict[str, str]:
    told = [line for line in metrics.text().decode().splitlines() if not line.startswith("#")]
    return dict(line.rsplit(" ", 1) for line in told)


def test_images_by_batches_is_the_mean_batch() -> None:
    metrics = Metrics()
    metrics.batch(60, [0.1, 0.2, 0.3], 0.01)
    metrics.batch(4, [0.4], 0.02)
    told = lines(metrics)
    assert told["noisewell_inference_count_total"] == "64.0"
    assert told["noisewell_exec_count_total"] == "2.0"
    assert told["noisewell_queue_seconds_count"] == "4.0"
    assert float(told["noisewell_queue_seconds_sum"]) == 1.0
    assert told["noisewell_compute_seconds_count"] == "2.0"


def test_requests_are_told_apart_by_route_and_outcome() -> None:
    metrics = Metrics()
    for status in (200, 200, 503):
        metrics.request("/v1/images", status)
    told = lines(metrics)
    assert told['noisewell_requests_total{route="/v1/images",status="200"}'] == "2.0"
    assert told['noisewell_requests_total{route="/v1/images",status="503"}'] == "1.0"


def test_a_swap_shows_the_version_that_serves() -> None:
    metrics = Metrics()
    for version in (1, 2, 1):
        metrics.swapped("mnist", version)
    told = lines(metrics)
    assert told['noisewell_model_version{model="mnist"}'] == "1.0"
    assert told['noisewell_swaps_total{model="mnist"}'] == "3.0"


def test_queue_and_jobs_are_read_at_each_scrape() -> None:
    metrics, queued, jobs = Metrics(), [0], {"running": 1}
    metrics.watch(lambda: queued[0], lambda: jobs)
    queued[0], jobs["queued"] = 7, 2
    told = lines(metrics)
    assert told["noisewell_queued_images"] == "7.0"
    assert told['noisewell_jobs{status="running"}'] == "1.0"
    assert told['noisewell_jobs{status="queued"}'] == "2.0"


def test_two_services_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.batch(1, [0.0], 0.0)
    assert lines(second)["noisewell_inference_count_total"] == "0.0"

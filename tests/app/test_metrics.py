from app.metrics import MAX_VERSIONS, Metrics, Reading


def lines(metrics: Metrics) -> dict[str, str]:
    told = [line for line in metrics.text().decode().splitlines() if not line.startswith("#")]
    return dict(line.rsplit(" ", 1) for line in told)


def test_images_by_batches_is_the_mean_batch() -> None:
    metrics = Metrics()
    metrics.batch("mnist", 1, 60, [0.1, 0.2, 0.3], 0.01)
    metrics.batch("mnist", 1, 4, [0.4], 0.02)
    told, of = lines(metrics), '{model="mnist",version="1"}'
    assert told[f"noisewell_inference_count_total{of}"] == "64.0"
    assert told[f"noisewell_exec_count_total{of}"] == "2.0"
    assert told[f"noisewell_queue_seconds_count{of}"] == "4.0"
    assert float(told[f"noisewell_queue_seconds_sum{of}"]) == 1.0
    assert told[f"noisewell_compute_seconds_count{of}"] == "2.0"
    assert told['noisewell_batch_images_bucket{le="32.0",model="mnist",version="1"}'] == "1.0"


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
    metrics.watch(
        Reading(lambda: queued[0], lambda: jobs, lambda: {"ready": 3}, lambda: {"used": 5})
    )
    queued[0], jobs["queued"] = 7, 2
    told = lines(metrics)
    assert told["noisewell_queued_images"] == "7.0"
    assert told['noisewell_jobs{status="running"}'] == "1.0"
    assert told['noisewell_jobs{status="queued"}'] == "2.0"
    assert told['noisewell_datasets{status="ready"}'] == "3.0"
    assert told['noisewell_device_memory_bytes{kind="used"}'] == "5.0"
    assert int(float(told["noisewell_threads"])) > 0


def test_two_services_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.batch("mnist", 1, 1, [0.0], 0.0)
    assert not any(name.startswith("noisewell_inference_count") for name in lines(second))


def test_requests_for_images_are_told_apart_by_version_and_outcome() -> None:
    metrics = Metrics()
    for outcome in ("success", "late", "cancelled", "success"):
        metrics.done("mnist", 2, outcome, 0.1)
    told, of = lines(metrics), 'model="mnist",'
    assert told[f'noisewell_inference_request_success_total{{{of}version="2"}}'] == "2.0"
    late = f'noisewell_inference_request_failure_total{{{of}reason="late",version="2"}}'
    assert told[late] == "1.0"
    assert told[f'noisewell_inference_request_seconds_count{{{of}version="2"}}'] == "4.0"


def test_versions_that_drew_nothing_lately_lose_their_series() -> None:
    metrics = Metrics()
    for version in range(1, MAX_VERSIONS + 11):
        metrics.batch("mnist", version, 1, [0.0], 0.0)
        metrics.done("mnist", version, "late", 0.0)
    told = lines(metrics)
    kept = [name for name in told if name.startswith("noisewell_inference_count_total")]
    failed = [name for name in told if name.startswith("noisewell_inference_request_failure_total")]
    assert len(kept) == len(failed) == MAX_VERSIONS
    assert not any('version="1"' in name for name in told)


def test_the_memory_of_the_process_is_told() -> None:
    assert float(lines(Metrics())["process_resident_memory_bytes"]) > 1e6

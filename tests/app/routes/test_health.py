import re

from app.version import VERSION


def test_a_process_that_answers_is_live(toy) -> None:
    answer = toy.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "live"})


def test_a_service_that_can_make_images_is_ready(toy) -> None:
    answer = toy.get("/health/ready")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "refused": []})


def test_a_service_without_a_model_is_live_and_not_ready(start) -> None:
    with start() as service:
        assert service.get("/health/live").status_code == 200
        answer = service.get("/health/ready")
    assert answer.status_code == 503
    assert "no model is loaded" in answer.json()["detail"]
    assert answer.headers["Retry-After"] == "1"


def test_a_service_whose_batcher_ended_is_not_ready(registry, make_version, start) -> None:
    make_version(registry)
    with start() as service:
        service.context.batcher.close()
        answer = service.get("/health/ready")
        assert answer.status_code == 503
        assert "batcher is not running" in answer.json()["detail"]
        refused = service.get("/v1/models/toy/images/7.png")
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")


def test_a_service_whose_only_model_is_damaged_starts_and_says_so(
    registry, make_version, start
) -> None:
    make_version(registry)
    (registry.root / "toy" / "1" / "manifest.json").write_bytes(b"{")
    with start() as service:
        assert service.get("/health/ready").status_code == 503
        answer = service.get("/v1/models/toy/images/7.png")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"


def test_the_status_tells_what_serves_and_what_waits(toy) -> None:
    status = toy.get("/v1/status").json()
    assert (status["device"], status["phase"], status["doing"]) == ("cpu", "ready", "")
    assert status["version"] == VERSION
    assert {f"{v['model']}@{v['version']}" for v in status["loaded"]} >= {"plain@1", "toy@1"}
    assert all(len(v["certificate"]) == 12 and v["num_bytes"] > 0 for v in status["loaded"])
    assert status["worker"] == {"state": "off", "pid": None}
    assert set(status["datasets"].values()) == {0}
    assert min(status["disk_free_bytes"], status["uptime_sec"]) > 0
    assert status["models"] == {"plain": 1, "toy": 1}
    assert (status["refused"], status["queued_images"]) == ({}, 0)
    assert set(status["jobs"].values()) == {0}


def test_a_champion_that_was_refused_is_named_wherever_one_looks(
    registry, make_version, start, capsys
) -> None:
    for weights in range(2):
        make_version(registry, weights=weights)
    registry.promote("toy", 2, "")
    (registry.path("toy", 2) / "generator.safetensors").write_bytes(b"")
    with start() as service:
        status = service.get("/v1/status").json()
        model = service.get("/v1/models/toy").json()
        ready = service.get("/health/ready").json()
        assert service.get("/v1/models/toy/images/7.png").headers["X-Model-Version"] == "1"
    assert (status["models"], status["refused"]["toy"]["version"]) == ({"toy": 1}, 2)
    assert ready == {"status": "ready", "refused": ["toy@2"]}
    assert (model["serving"], model["refused"]["version"]) == (1, 2)
    assert "SHA-256" in model["refused"]["reason"]
    assert "version refused" in capsys.readouterr().out


def test_a_model_without_readable_aliases_serves_and_hides_no_other(
    registry, make_version, start
) -> None:
    for model in ("toy", "other"):
        make_version(registry, model)
    (registry.root / "toy" / "aliases.json").write_bytes(b"{")
    with start() as service:
        assert service.get("/v1/models/toy/images/7.png").status_code == 200
        other, toy = service.get("/v1/models").json()["data"]
    assert (other["serving"], other["refused"]) == (1, None)
    assert (toy["serving"], toy["aliases"]) == (1, {})
    assert "aliases.json cannot be read" in toy["refused"]["reason"]


def test_metrics_count_images_batches_and_answers(registry, make_version, start) -> None:
    make_version(registry)
    with start() as service:
        service.images(n=10)
        service.get("/v1/models/toy/images/7.png")
        service.get("/v1/models/toy/images/8.png")
        service.get("/v1/models/cat/images/8.png")
        text = service.get("/metrics").text
    values = dict(re.findall(r"^(\w+(?:\{.*?\})?) (\S+)$", text, re.MULTILINE))
    image = 'noisewell_requests_total{route="/v1/models/{model}/images/{seed}.png",status='
    of = '{model="toy",version="1"}'
    assert values[f"noisewell_inference_count_total{of}"] == "12.0"
    assert values[f"noisewell_exec_count_total{of}"] == "3.0"
    assert values[f"noisewell_queue_seconds_count{of}"] == "3.0"
    assert values[f"noisewell_inference_request_success_total{of}"] == "3.0"
    assert float(values['noisewell_device_memory_bytes{kind="used"}']) > 0
    assert values[image + '"200"}'] == "2.0"
    assert values[image + '"404"}'] == "1.0"
    assert values['noisewell_model_version{model="toy"}'] == "1.0"
    assert values["noisewell_queued_images"] == "0.0"
    assert values['noisewell_jobs{status="queued"}'] == "0.0"

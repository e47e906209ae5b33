"""The files of examples/cluster, against the schema of the Ray that is pinned."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from ray.autoscaler._private.util import prepare_config, validate_config

import evo

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "examples" / "cluster"
WHEEL = f"evo_arch-{evo.__version__}-py3-none-any.whl"
RAY = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", ["cluster.yaml", "aws.yaml"])
def test_the_cluster_launcher_takes_it(name: str) -> None:
    config = yaml.safe_load((CLUSTER / name).read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    starts = [config[f"{role}_start_ray_commands"][-1] for role in ("head", "worker")]
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in starts[0]
    assert "$RAY_HEAD_IP:6379" in starts[1]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["file_mounts"][f"~/evo/{WHEEL}"] == f"dist/{WHEEL}"
    for there, here in config["file_mounts"].items():
        assert there.startswith("~/")
        assert here.startswith(("~", "dist/")) or (ROOT / here).is_file()
    assert f"~/evo/{WHEEL}" in config["setup_commands"][1]


@pytest.mark.parametrize("name", ["cluster.yaml", "aws.yaml"])
def test_every_command_and_shell_has_the_environment_and_the_token(name: str, tmp_path: Path) -> None:
    config = yaml.safe_load((CLUSTER / name).read_text())
    programs = tmp_path / "evo" / "env" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"')
    (programs / "ray").write_text('#!/bin/sh\necho "$RAY_AUTH_MODE $*"')
    (programs / "ray").chmod(0o755)

    def said(*commands: str) -> list[str]:
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "RAY_HEAD_IP": "10.0.0.1"}
        script = "\n".join(["set -e", *commands])
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    for role in ("head", "worker"):
        stop, start = said(*(f"({command})" for command in config[f"{role}_start_ray_commands"]))
        assert stop == " stop"
        assert start.startswith("token start ")
    for _ in range(2):  # as with every `ray up`
        assert said(config["setup_commands"][-1]) == []
    assert len((tmp_path / ".bashrc").read_text().splitlines()) == 2
    assert said(". ~/.bashrc", "ray status") == ["token status"]


def test_own_machines_are_all_used() -> None:
    config = yaml.safe_load((CLUSTER / "cluster.yaml").read_text())
    (machines,) = prepare_config(config)["available_node_types"].values()
    assert machines["min_workers"] == machines["max_workers"] == len(config["provider"]["worker_ips"])


def test_only_workers_are_spot_instances() -> None:
    nodes = yaml.safe_load((CLUSTER / "aws.yaml").read_text())["available_node_types"]
    spot = {name for name, node in nodes.items() if "InstanceMarketOptions" in node["node_config"]}
    assert spot == {"worker"}


def test_the_manifest_for_kubernetes_is_whole() -> None:
    cluster, claim = yaml.safe_load_all((CLUSTER / "raycluster.yaml").read_text())
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    spec = cluster["spec"]
    assert RAY is not None
    assert spec["rayVersion"] == RAY[1]
    assert spec["authOptions"] == {"mode": "token"}
    (group,) = spec["workerGroupSpecs"]
    assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    pods: list[dict[str, Any]] = [part["template"]["spec"] for part in (spec["headGroupSpec"], group)]
    containers = [container for pod in pods for container in pod["containers"]]
    assert [container["name"] for container in containers] == ["ray-head", "ray-worker"]
    assert len({container["image"] for container in containers}) == 1
    for container in containers:
        assert container["resources"]["requests"] == container["resources"]["limits"]
    (volume,) = pods[0]["volumes"]
    assert containers[0]["volumeMounts"] == [{"name": volume["name"], "mountPath": "/runs"}]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_the_image_has_the_same_versions() -> None:
    image = (CLUSTER / "Dockerfile").read_text()
    assert RAY is not None
    assert re.search(rf"^FROM rayproject/ray:{re.escape(RAY[1])}-py3\d\d$", image, re.MULTILINE)
    assert image.count(WHEEL) == 2
    assert "constraints.txt" in image
    (tag,) = re.findall(r"-t (\S+) ", image)
    assert f"image: {tag}" in (CLUSTER / "raycluster.yaml").read_text()

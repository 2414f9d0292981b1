#!/usr/bin/env python3
"""cri.py SOCKET DIRECTORY: does what a kubelet does with a pod, with containerd at SOCKET. Prints `ok<TAB>NAME`, or
`FAILED<TAB>NAME: what was said`, for each check."""

import importlib
import re
import sys
import time

import grpc
from grpc_tools import protoc

SOCKET, DIRECTORY = sys.argv[1:]
PROTO = "/usr/share/gocode/src/k8s.io/cri-api/pkg/apis/runtime/v1/api.proto"
IMAGE = "localhost/bb:latest"
# Without what is for its compiler to Go.
with open(PROTO) as file:
    text = re.sub(r'import "github[^;]*;|option \(gogoproto[^;]*;|\[\(gogoproto[^]]*\]', "", file.read())
with open(f"{DIRECTORY}/cri.proto", "w") as file:
    file.write(text)
protoc.main(["protoc", f"-I{DIRECTORY}", f"--python_out={DIRECTORY}", f"--grpc_python_out={DIRECTORY}", "cri.proto"])
sys.path.insert(0, DIRECTORY)
api, calls = importlib.import_module("cri_pb2"), importlib.import_module("cri_pb2_grpc")
channel = grpc.insecure_channel(f"unix://{SOCKET}")
runtime, images = calls.RuntimeServiceStub(channel), calls.ImageServiceStub(channel)


def check(name, wanted, call):
    try:
        said = str(call())
    except grpc.RpcError as error:
        said = f"error: {error.details()}"
    is_ok = re.search(wanted, said) is not None
    print("ok" if is_ok else "FAILED", name if is_ok else f"{name}: {said!r}", sep="\t", flush=True)


def pod(name):
    return api.PodSandboxConfig(
        metadata=api.PodSandboxMetadata(name=name, uid=name, namespace="default"), log_directory=DIRECTORY,
        linux=api.LinuxPodSandboxConfig(
            cgroup_parent="kelsonpods.slice",
            security_context=api.LinuxSandboxSecurityContext(
                namespace_options=api.NamespaceOption(network=api.NODE, pid=api.CONTAINER))))


# An import is seen by this service some time after it.
wanted = api.ImageStatusRequest(image=api.ImageSpec(image=IMAGE))
for _ in range(150):
    if images.ImageStatus(wanted).image.id:
        break
    time.sleep(0.2)
POD = pod("pod")
sandbox = runtime.RunPodSandbox(
    api.RunPodSandboxRequest(config=POD, runtime_handler="kelson"), timeout=120).pod_sandbox_id


def start(name, command, memory=67108864):
    """A container of the pod, started; its id."""
    config = api.ContainerConfig(
        metadata=api.ContainerMetadata(name=name), image=api.ImageSpec(image=IMAGE), command=command,
        log_path=f"{name}.log",
        linux=api.LinuxContainerConfig(
            resources=api.LinuxContainerResources(memory_limit_in_bytes=memory, cpu_shares=512),
            security_context=api.LinuxContainerSecurityContext(
                namespace_options=api.NamespaceOption(network=api.NODE, pid=api.CONTAINER))))
    made = runtime.CreateContainer(
        api.CreateContainerRequest(pod_sandbox_id=sandbox, config=config, sandbox_config=POD), timeout=120)
    runtime.StartContainer(api.StartContainerRequest(container_id=made.container_id), timeout=120)
    return made.container_id


def run(container, *command):
    """Exit code and output of a command in a container, as probes run them."""
    answer = runtime.ExecSync(api.ExecSyncRequest(container_id=container, cmd=command, timeout=60), timeout=120)
    return f"{answer.exit_code} {answer.stdout.decode()}"


def status(container):
    return runtime.ContainerStatus(api.ContainerStatusRequest(container_id=container)).status


def ended(container):
    for _ in range(300):
        now = status(container)
        if now.state == api.CONTAINER_EXITED:
            return f"{now.exit_code} {now.reason}"
        time.sleep(0.2)
    return "it did not end"


check("pod is ready", "^True$", lambda: runtime.PodSandboxStatus(
    api.PodSandboxStatusRequest(pod_sandbox_id=sandbox)).status.state == api.SANDBOX_READY)
container = start("long", ["/bin/sleep", "100000"])
check("container is running", "CONTAINER_RUNNING", lambda: status(container))
check("exec", "^0 hello\n$", lambda: run(container, "/bin/echo", "hello"))
check("exec: exit status", "^7 ", lambda: run(container, "/bin/sh", "-c", "exit 7"))
check("exec: missing command", "no such file or directory", lambda: run(container, "/bin/nosuch"))
check("memory limit", "^0 67108864\n", lambda: run(container, "/bin/cat", "/sys/fs/cgroup/memory.max"))
check("its scope", r"kelsonpods\.slice/cri-containerd-.*\.scope", lambda: open(
    f"/proc/{re.search('pid.:([0-9]+)', runtime.ContainerStatus(api.ContainerStatusRequest(container_id=container, verbose=True)).info['info']).group(1)}/cgroup").read())
check("update", "^$", lambda: runtime.UpdateContainerResources(api.UpdateContainerResourcesRequest(
    container_id=container, linux=api.LinuxContainerResources(memory_limit_in_bytes=50331648))))
check("update: it is written", "^0 50331648\n", lambda: run(container, "/bin/cat", "/sys/fs/cgroup/memory.max"))
check("stats", "working_set_bytes", lambda: runtime.ContainerStats(api.ContainerStatsRequest(container_id=container)))
check("exit status", "^7 Error$", lambda: ended(start("short", ["/bin/sh", "-c", "exit 7"])))
# containerd may miss the event of a container that has ended at once.
check("out of memory", "^137 OOMKilled$", lambda: ended(
    start("eater", ["/bin/sh", "-c", "tail -c 150000000 /dev/zero; sleep 2; exit 137"], memory=33554432)))
check("missing command", "no such file or directory", lambda: start("missing", ["/bin/nosuch"]))
check("stop", "^$", lambda: runtime.StopContainer(api.StopContainerRequest(container_id=container, timeout=1)))
check("stopped", "^137 ", lambda: ended(container))
check("remove", "^$", lambda: runtime.RemoveContainer(api.RemoveContainerRequest(container_id=container)))
check("pod stop", "^$", lambda: runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=sandbox)))
check("pod remove", "^$", lambda: runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=sandbox)))

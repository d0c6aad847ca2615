#!/usr/bin/env python3
"""Does what the Dockerfile says, without a container engine: in roots made by debootstrap, on Linux, as root.

    sudo python3 docker/check_in_chroot.py

Every instruction is taken from docker/Dockerfile itself. Then the image's entry point is run as its user, without a
network, until its health check passes; a client asks for vectors; SIGTERM has to end it well. The output tells what
was seen. An engine's layers, limits and isolation are not what this shows.
"""
from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

CONTEXT = Path(__file__).resolve().parents[1]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

KNOWN = {"ARG", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "RUN", "USER", "VOLUME", "WORKDIR"}


# ---- what the Dockerfile says ----------------------------------------------------------------------------------------

@dataclass
class Stage:
    """One ``FROM`` and what follows it."""

    base: str
    name: str | None
    instructions: list[tuple[str, str]] = field(default_factory=list)


def parse(text: str) -> list[Stage]:
    """
    Raises:
        ValueError: an instruction that is not known here.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    stages: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, argument = line.strip().partition(" ")
        if word == "FROM":
            base, *name = argument.split(" AS ")
            stages.append(Stage(base, *name or [None]))
        elif word in KNOWN:
            stages[-1].instructions.append((word, re.sub(r"\s+", " ", argument.strip())))
        else:
            raise ValueError(f"{word} is not known here: {line.strip()}")
    return stages


@dataclass
class Image:
    """What a stage leaves: files, and how a process in them is to be run."""

    root: Path
    environ: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    user: str = "0"
    directory: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def command(self, *words: str) -> list[str]:
        """What runs ``words`` in it, as its user."""
        user = ["--userspec", f"{self.user}:{self.user}"] if self.user != "0" else []
        return ["env", "-i", *(f"{name}={value}" for name, value in self.environ.items()), "chroot", *user,
                str(self.root), "/bin/sh", "-c", f"cd {self.directory} && exec \"$@\"", "sh", *words]


# ---- doing it --------------------------------------------------------------------------------------------------------

def build(stages: list[Stage], folder: Path, arguments: dict[str, str], ca: Path | None) -> Image:
    """Carry all stages out; the last one's image."""
    images: dict[str | None, Image] = {}
    for number, stage in enumerate(stages):
        say(f"FROM {stage.base}")
        root = folder / f"root-{number}"
        if stage.base in images:
            run("cp", "--archive", "--reflink=auto", str(images[stage.base].root), str(root))
            image = Image(root, dict(images[stage.base].environ))
        else:
            distribution, _, tag = stage.base.partition(":")
            if distribution != "debian":
                raise SystemExit(f"{stage.base} is no image of Debian, which debootstrap makes")
            run("debootstrap", "--variant=minbase", tag.partition("-")[0], str(root))
            image = Image(root)
            if ca is not None:
                (root / "usr/local/share/ca-certificates").mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ca, root / "usr/local/share/ca-certificates/proxy.crt")
        shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
        run("mount", "-t", "proc", "proc", str(root / "proc"))
        for word, argument in stage.instructions:
            say(f"{word} {argument}")
            follow(word, argument, image, images, arguments)
        run("umount", str(root / "proc"))  # a later stage may copy this one
        images[stage.name] = image
    return image


def follow(word: str, argument: str, image: Image, images: dict[str | None, Image], arguments: dict[str, str]) -> None:
    """Carry one instruction out."""
    if word == "RUN":
        run(*image.command("/bin/sh", "-c", argument))
    elif word == "COPY":
        *options, source, target = shlex.split(argument)
        stage = next((option.partition("=")[2] for option in options if option.startswith("--from=")), None)
        copy((images[stage].root if stage else CONTEXT) / source.lstrip("/"), image.root / target.lstrip("/"),
             [] if stage else ignored())
    elif word == "ARG":
        name, _, value = argument.partition("=")
        image.environ[name] = arguments.get(name, value)
    elif word == "ENV":
        image.environ.update(part.split("=", 1) for part in shlex.split(argument))
    elif word == "USER":
        image.user = argument
    elif word == "WORKDIR":
        image.directory = argument
        (image.root / argument.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif word == "ENTRYPOINT":
        image.entrypoint = json.loads(argument)
    elif word == "HEALTHCHECK":
        image.health = json.loads(argument.partition(" CMD ")[2])
    elif word == "VOLUME":
        for path in json.loads(argument):
            assert (image.root / path.lstrip("/")).is_dir(), f"{path} is not in the image, so that root would own it"


def ignored() -> list[str]:
    """Names that .dockerignore keeps out of the context."""
    return [line.removeprefix("**/") for line in (CONTEXT / ".dockerignore").read_text().split()]


def copy(source: Path, target: Path, names: list[str]) -> None:
    def ignore(folder: str, entries: list[str]) -> list[str]:
        return [entry for entry in entries if any(fnmatch.fnmatch(entry, name) for name in names)]
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=ignore, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


# ---- trying it -------------------------------------------------------------------------------------------------------

LOOPBACK = """
import fcntl, os, socket, struct, sys
flags = struct.pack("16sH14x", b"lo", 1)  # up
fcntl.ioctl(socket.socket(), 0x8914, flags)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Makes 127.0.0.1 work in a network of its own, then becomes the command that is its arguments."""

ASK = """
from bert_serving.client import BertClient
with BertClient(timeout=20000) as client:
    status = client.server_status
    print("vectors", client.encode(["First do it", "then do it right"]).shape, "of", status["model_name"],
          "with", status["num_worker"], "worker(s), Python", status["python_version"].split()[0])
"""


def try_out(image: Image, arguments: list[str], seconds: float) -> None:
    """Start it, see it become healthy, ask it, stop it."""
    run("mount", "-t", "proc", "proc", str(image.root / "proc"))
    say("fetch the model, with a network: bert-serving-model get")
    run(*image.command("bert-serving-model", "get"))
    say(f"start the entry point, without one: {' '.join([*image.entrypoint, *arguments])}")
    began = time.monotonic()
    server = subprocess.Popen(["unshare", "--net", sys.executable, "-c", LOOPBACK,
                               *image.command(*image.entrypoint, *arguments)])
    inside = ["nsenter", f"--net=/proc/{server.pid}/ns/net"]
    try:
        while subprocess.run([*inside, *image.command(*image.health)], capture_output=True).returncode:
            if server.poll() is not None or time.monotonic() - began > seconds:
                raise SystemExit(f"it did not become healthy within {seconds:g} s")
            time.sleep(0.5)
        say(f"its health check passes after {time.monotonic() - began:.0f} s")
        owner = Path(f"/proc/{server.pid}").stat().st_uid
        say(f"it is {Path(f'/proc/{server.pid}/comm').read_text().strip()}, of the user {owner}")
        run(*inside, *image.command("python3", "-c", ASK))
        run(*inside, *image.command("bert-serving-doctor", "-port", "0", "-port_out", "0"))
        server.send_signal(signal.SIGTERM)
        say(f"SIGTERM ends it with exit code {server.wait(60)}")
        assert server.returncode == 0 and owner == int(image.user) != 0
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def say(line: str) -> None:
    print(f"== {line}", flush=True)


def run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"failed with exit code {done.returncode}: {shlex.join(command)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Do what docker/Dockerfile says in roots of debootstrap, and try it.")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as of docker build")
    parser.add_argument("--folder", type=Path, help="where roots are made, and kept; default: a temporary one")
    parser.add_argument("--ca", type=Path, help="certificates of the proxy that this machine is behind, if it is")
    parser.add_argument("--seconds", type=float, default=600, help="until it has to be healthy (default: 600)")
    parser.add_argument("arguments", nargs="*", help="of the entry point, after --")
    args = parser.parse_args()
    if "IN_A_MOUNT_NAMESPACE" not in os.environ:  # so that every mount goes with this process
        os.environ["IN_A_MOUNT_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])
    stages = parse((CONTEXT / "docker/Dockerfile").read_text(encoding="utf-8"))
    folder = args.folder or Path(tempfile.mkdtemp(prefix="bert-serving-image-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        image = build(stages, folder.resolve(), dict(part.split("=", 1) for part in args.build_arg), args.ca)
        run("du", "--summarize", "--human-readable", "--one-file-system", str(image.root))
        try_out(image, args.arguments, args.seconds)
    finally:
        if args.folder is None:
            subprocess.run(["umount", *map(str, filter(os.path.ismount, folder.glob("root-*/proc")))])
            run("rm", "--recursive", "--force", "--one-file-system", str(folder))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Restores a snapshot, written from docs/repository-format.md alone.

    repository_reader.py REPOSITORY ID MOUNT DIRECTORY

Needs the Python packages blake3 and zstandard. It reads everything, knows nothing of the program, and stops
at the first thing that is not as the document says.
"""

import os
import struct
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes

import zstandard
from blake3 import blake3

CONTEXTS = {
    2: "trefoil 2026 repository page",
    3: "trefoil 2026 repository index",
    4: "trefoil 2026 repository pieces",
}


def object_id(kind, data):
    if kind == 1:
        return blake3(data).digest()
    return blake3(data, derive_key_context=CONTEXTS[kind]).digest()


class Repository:
    def __init__(self, path):
        self.path = Path(path)
        lines = (self.path / "format").read_text().split("\n")
        assert lines[0] == "trefoil repository 1", lines
        assert lines[2] == "needs", lines
        self.objects = {}
        for pack in sorted(self.path.glob("packs/*/*")):
            self.scan(pack)

    def scan(self, pack):
        data = pack.read_bytes()
        assert blake3(data).hexdigest() == pack.name
        assert pack.parent.name == pack.name[:2]
        assert data[:16] == b"trefoil pack v1\n"
        at = 16
        while at < len(data):
            magic, kind, coding, zero, length, stored = struct.unpack_from("<4sBBHII", data, at)
            assert magic == b"TOBJ" and zero == 0, at
            key = data[at + 16 : at + 48]
            check = data[at + 48 : at + 56]
            body = data[at + 56 : at + 56 + stored]
            assert len(body) == stored
            assert blake3(data[at : at + 48] + body).digest()[:8] == check
            if coding == 1:
                body = zstandard.ZstdDecompressor().decompress(body, max_output_size=length)
            else:
                assert coding == 0
            assert len(body) == length
            assert object_id(kind, body) == key
            self.objects[(kind, key)] = body
            at += 56 + stored

    def manifest(self, identity):
        data = (self.path / "snapshots" / identity).read_bytes()
        assert blake3(data).hexdigest() == identity
        lines = data.decode("ascii").split("\n")
        assert lines[0] == "trefoil snapshot 1" and lines[-1] == ""
        mounts, mount = {}, None
        for line in lines[1:-1]:
            word, _, value = line.partition(" ")
            if word == "mount":
                mount = mounts.setdefault(unquote_to_bytes(value).decode(), {})
            elif mount is not None:
                mount[word] = value
        return mounts

    def entries(self, kind, key):
        data = self.objects[(kind, key)]
        if kind == 2:
            yield from page(data)
            return
        at = 0
        while at < len(data):
            (length,) = struct.unpack_from("<H", data, at)
            first = data[at + 2 : at + 2 + length]
            at += 2 + length
            nodes = list(page(self.objects[(2, data[at : at + 32])]))
            assert nodes[0]["name"] == first
            at += 32
            yield from nodes

    def content(self, node):
        if node["stored"] == 0:
            return b""
        if node["stored"] == 1:
            return self.objects[(1, node["content"])]
        data, pieces = self.objects[(4, node["pieces"])], []
        for at in range(0, len(data), 36):
            (length,) = struct.unpack_from("<I", data, at)
            piece = self.objects[(1, data[at + 4 : at + 36])]
            assert len(piece) == length
            pieces.append(piece)
        return b"".join(pieces)


def page(data):
    at, last = 0, b""
    while at < len(data):
        node = {}
        (length,) = struct.unpack_from("<H", data, at)
        node["name"] = data[at + 2 : at + 2 + length]
        assert node["name"] > last and b"/" not in node["name"]
        last = node["name"]
        at += 2 + length
        head = struct.unpack_from("<BBHIIqIH", data, at)
        (node["type"], flags, node["mode"], node["uid"], node["gid"], secs, nanos, count) = head
        node["mtime_ns"] = secs * 1_000_000_000 + nanos
        at += struct.calcsize("<BBHIIqIH")
        node["xattrs"] = []
        for _ in range(count):
            (length,) = struct.unpack_from("<H", data, at)
            name = data[at + 2 : at + 2 + length]
            at += 2 + length
            (length,) = struct.unpack_from("<I", data, at)
            node["xattrs"].append((name, data[at + 4 : at + 4 + length]))
            at += 4 + length
        if node["type"] == 1:
            node["tree"] = (data[at], data[at + 1 : at + 33])
            at += 33
        elif node["type"] == 2:
            node["sparse"] = bool(flags & 1)
            (node["size"],) = struct.unpack_from("<Q", data, at)
            node["content"] = data[at + 8 : at + 40]
            node["stored"] = data[at + 40]
            at += 41
            if node["stored"] == 4:
                node["pieces"] = data[at : at + 32]
                at += 32
            if flags & 2:
                (node["group"],) = struct.unpack_from("<Q", data, at)
                at += 8
        else:
            assert node["type"] == 3
            (length,) = struct.unpack_from("<H", data, at)
            node["target"] = data[at + 2 : at + 2 + length]
            at += 2 + length
        yield node


def write(path, data, sparse):
    with open(path, "wb") as file:
        for at in range(0, len(data), 4096):
            block = data[at : at + 4096]
            if not sparse or block.strip(b"\0"):
                file.seek(at)
                file.write(block)
        file.truncate(len(data))


def restore(repository, tree, directory, groups):
    for node in repository.entries(*tree):
        path = os.path.join(directory, node["name"])
        if node["type"] == 3:
            os.symlink(node["target"], path)
        elif node["type"] == 1:
            os.mkdir(path)
            restore(repository, node["tree"], path, groups)
        elif node.get("group") in groups:
            os.link(groups[node["group"]], path)
            continue
        else:
            data = repository.content(node)
            assert len(data) == node["size"] and blake3(data).digest() == node["content"]
            write(path, data, node["sparse"])
            if "group" in node:
                groups[node["group"]] = path
        if node["type"] != 3:
            for name, value in node["xattrs"]:
                os.setxattr(path, name, value)
            if os.geteuid() == 0 and node["uid"] != 0xFFFFFFFF:
                os.chown(path, node["uid"], node["gid"])
            os.chmod(path, node["mode"])
        times = (node["mtime_ns"], node["mtime_ns"])
        os.utime(path, ns=times, follow_symlinks=False)


def main():
    repository, identity, mount, directory = sys.argv[1:]
    repository = Repository(repository)
    kind, key = repository.manifest(identity)[mount]["root"].split(" ")
    os.mkdir(directory)
    restore(repository, (int(kind), bytes.fromhex(key)), os.fsencode(directory), {})


main()

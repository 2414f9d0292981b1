#!/usr/bin/env python3
"""archive.py LAYER.tar IMAGE.tar: an image of this one layer, as an archive of the OCI image layout."""

import hashlib
import io
import json
import os
import sys
import tarfile

NAME = "localhost/bb:latest"
blobs = {}


def blob(data, kind):
    digest = hashlib.sha256(data).hexdigest()
    blobs[f"blobs/sha256/{digest}"] = data
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}


def document(value, kind):
    return blob(json.dumps(value).encode(), kind)


with open(sys.argv[1], "rb") as file:
    layer = blob(file.read(), "layer.v1.tar")
machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
config = document(
    {"architecture": machine, "os": "linux", "config": {"Cmd": ["/bin/sleep", "100000"]},
     "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}, "config.v1+json")
manifest = document({"schemaVersion": 2, "config": config, "layers": [layer]}, "manifest.v1+json")
manifest["annotations"] = {"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "latest"}
blobs["oci-layout"] = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()
blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()
with tarfile.open(sys.argv[2], "w") as archive:
    for path, data in blobs.items():
        entry = tarfile.TarInfo(path)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))

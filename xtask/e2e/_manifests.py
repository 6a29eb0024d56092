"""Checks the Kubernetes manifests of folders that `sagellm plan --emit` wrote, against the schemas of Kubernetes."""

import pathlib
import sys

import kubernetes_validate
import yaml

count = 0
for folder in sys.argv[1:]:
    file = pathlib.Path(folder) / "kubernetes.yaml"
    for document in yaml.safe_load_all(file.read_text()):
        if document is None:
            continue
        try:
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        except Exception as error:
            sys.exit(f"{file}: {document.get('kind')} {document['metadata']['name']}: {error}")
        count += 1
assert count > 0, "there is nothing to check"
print(f"{count} objects are as Kubernetes {kubernetes_validate.latest_version()} wants them")

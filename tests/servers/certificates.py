"""A certificate authority of the tests' own, and one server certificate for the loopback address."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def issue(cls, folder: Path) -> Certificates:
        files = cls(folder / "ca.pem", folder / "server.pem", folder / "server.key")
        authority = trustme.CA()
        server = authority.issue_cert("localhost", "127.0.0.1")
        authority.cert_pem.write_to_path(str(files.authority))
        files.certificate.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
        # Servers refuse a key that others may read.
        files.key.touch(mode=0o600)
        server.private_key_pem.write_to_path(str(files.key))
        return files

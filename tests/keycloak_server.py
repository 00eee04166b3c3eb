"""A Keycloak whose people come from a directory.

Its realm is `keycloak_realm.json`; what a realm's file cannot say, a log-in with levels, is set up over its admin API.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import html
import os
import re
import secrets
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from afdp.embedded.process import free_port

_REALM = Path(__file__).with_name("keycloak_realm.json")
_ADMIN, _PASSWORD = "admin", "only-for-tests"
_PATIENCE = 240.0
_TIMEOUT = 60.0
_LEVELS = {"level-one": ("1", "auth-username-password-form"), "level-two": ("2", "auth-otp-form")}
_OTP_SECRET = b"only for these tests"  # carol's, as the realm's file has it


class KeycloakProcess:
    """The process, which takes a while to answer."""

    def __init__(self, keycloak: Path, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "keycloak.log"
        environment = {
            **os.environ,
            "KC_BOOTSTRAP_ADMIN_USERNAME": _ADMIN,
            "KC_BOOTSTRAP_ADMIN_PASSWORD": _PASSWORD,
            "JAVA_OPTS_KC_HEAP": "-Xms128m -Xmx512m",
            "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1",  # it lives for minutes, not for days
        }
        command = [
            "sh", keycloak.resolve() / "bin/kc.sh", "start", "--optimized", "--http-enabled=true",
            "--http-host=127.0.0.1", f"--http-port={self.port}", f"--hostname={self.url}", "--cache=local",
            f"--http-management-port={free_port()}", "--http-management-host=127.0.0.1",
        ]  # fmt: skip
        with self.log.open("w") as log:
            # Its script starts Java beside itself: both are one group, which ends as one.
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    async def ready(self) -> None:
        """Waits until it answers."""
        async with asyncio.timeout(_PATIENCE), httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT) as client:
            while True:
                if self._process.poll() is not None:
                    raise RuntimeError(f"Keycloak ended: {self.log.read_text()[-2000:]}")
                try:
                    if (await client.get(f"{self.url}/realms/master")).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.2)

    def stop(self) -> None:
        """Ends it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)


@contextmanager
def running_keycloak(keycloak: Path, folder: Path) -> Iterator[KeycloakProcess]:
    """A process that has been started, with its log in the folder."""
    process = KeycloakProcess(keycloak, folder)
    try:
        yield process
    finally:
        process.stop()


@dataclass
class Keycloak:
    """The running realm `afdp`."""

    url: str

    @property
    def issuer(self) -> str:
        """Whose tokens they are."""
        return f"{self.url}/realms/afdp"

    def settings(self, **changes: Any) -> Mapping[str, Any]:
        """Its entry in a file of identity settings, as docs/identity.md has it."""
        settings = {
            "issuer": self.issuer,
            "preset": "keycloak",
            "audiences": "afdp-notary",
            "tenant": {"claim": "tenant"},
            "mfa": {"acr": "gold"},
        }
        return {**settings, **changes}

    async def client_token(self, scope: str = "afdp.notary.read afdp.notary.write") -> str:
        """A pipeline's own token."""
        form = {"grant_type": "client_credentials", "client_id": "afdp-pipeline", "client_secret": "only-for-tests"}
        return await self._token({**form, "scope": scope})

    async def import_realm(self, ldap_url: str) -> None:
        """Makes the realm."""
        async with self._admin() as admin:
            answer = await admin.post("", content=_REALM.read_text().replace("LDAP_URL", ldap_url))
            answer.raise_for_status()
            await self._make_levels(admin)

    async def rotate_key(self) -> None:
        """Signs with a new key; the one before stays published."""
        async with self._admin() as admin:
            realm = (await admin.get("/afdp")).raise_for_status().json()
            key = {
                "name": "next",
                "providerId": "rsa-generated",
                "providerType": "org.keycloak.keys.KeyProvider",
                "parentId": realm["id"],
                "config": {"priority": ["200"], "algorithm": ["RS256"], "keySize": ["2048"]},
            }
            (await admin.post("/afdp/components", json=key)).raise_for_status()

    async def agree(self, page: str, user: str, password: str) -> None:
        """Does in a browser what a person does who is asked to open a page: logs in, and agrees."""
        answer = await self._browse(page, user, password)
        assert "Device Login Successful" in answer.text, answer.text[-3000:]

    async def person_token(self, user: str, password: str, level: str) -> str:
        """The token of a person who logs in at a web application that asks for a level by `acr_values`."""
        verifier = secrets.token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        back = "http://127.0.0.1:1/back"
        asked = {
            "client_id": "afdp-console",
            "response_type": "code",
            "scope": "openid afdp.notary.read",
            "redirect_uri": back,
            "acr_values": level,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        page = f"{self.issuer}/protocol/openid-connect/auth?{urlencode(asked)}"
        answer = await self._browse(page, user, password)
        (code,) = parse_qs(urlsplit(answer.headers["location"]).query)["code"]
        form = {"grant_type": "authorization_code", "client_id": "afdp-console", "code": code, "redirect_uri": back}
        return await self._token({**form, "code_verifier": verifier})

    async def _browse(self, page: str, user: str, password: str) -> httpx.Response:
        """Fills forms until there are no more; what is answered then, or the way back to an application."""
        filled = {"username": user, "password": password, "otp": one_time_password(time.time()), "accept": "Yes"}
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT) as browser:
            answer = await browser.get(page)
            for _ in range(12):
                for cookie in browser.cookies.jar:
                    cookie.secure = False  # they are for https, and a browser sends them on loopback all the same
                if answer.is_redirect:
                    target = answer.url.join(answer.headers["location"])
                    if not str(target).startswith(self.url):
                        break
                    answer = await browser.get(target)
                elif form := re.search(r'<form[^>]*action="([^"]+)"[^>]*>(.*?)</form>', answer.text, flags=re.DOTALL):
                    names = set(re.findall(r'name="([^"]+)"', form[2]))
                    fields = dict(
                        re.findall(r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"', form[2])
                    )
                    fields |= {name: value for name, value in filled.items() if name in names}
                    answer = await browser.post(answer.url.join(html.unescape(form[1])), data=fields)
                else:
                    break
            return answer

    async def _token(self, form: Mapping[str, str]) -> str:
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT) as client:
            answer = await client.post(f"{self.issuer}/protocol/openid-connect/token", data=form)
        return str(answer.raise_for_status().json()["access_token"])

    def _admin(self) -> httpx.AsyncClient:
        form = {"grant_type": "password", "client_id": "admin-cli", "username": _ADMIN, "password": _PASSWORD}
        token = httpx.post(
            f"{self.url}/realms/master/protocol/openid-connect/token", data=form, trust_env=False, timeout=_TIMEOUT
        )
        headers = {
            "authorization": f"Bearer {token.raise_for_status().json()['access_token']}",
            "content-type": "application/json",
        }
        base = f"{self.url}/admin/realms"
        return httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=_TIMEOUT)

    async def _make_levels(self, admin: httpx.AsyncClient) -> None:
        """A log-in of two levels: a password, and for who asks for more a one-time password as well."""
        flows = "/afdp/authentication/flows"

        async def add(path: str, **body: Any) -> None:
            (await admin.post(f"{flows}{path}", json=body)).raise_for_status()

        await add("", alias="levels", providerId="basic-flow", topLevel=True, builtIn=False)
        await add("/levels/executions/execution", provider="auth-cookie")
        await add("/levels/executions/flow", alias="levels-forms", type="basic-flow", provider="basic-flow")
        for alias, (_, form) in _LEVELS.items():
            await add("/levels-forms/executions/flow", alias=alias, type="basic-flow", provider="basic-flow")
            await add(f"/{alias}/executions/execution", provider="conditional-level-of-authentication")
            await add(f"/{alias}/executions/execution", provider=form)
        level = ""
        for execution in (await admin.get(f"{flows}/levels/executions")).raise_for_status().json():
            name = execution["displayName"]
            level = _LEVELS[name][0] if name in _LEVELS else level
            requirement = "CONDITIONAL" if name in _LEVELS else "REQUIRED" if level else "ALTERNATIVE"
            changed = await admin.put(f"{flows}/levels/executions", json={**execution, "requirement": requirement})
            changed.raise_for_status()
            if execution.get("providerId") == "conditional-level-of-authentication":
                config = {"loa-condition-level": level, "loa-max-age": "36000"}
                path = f"/afdp/authentication/executions/{execution['id']}/config"
                (await admin.post(path, json={"alias": f"level {level}", "config": config})).raise_for_status()
        (await admin.put("/afdp", json={"browserFlow": "levels"})).raise_for_status()


def one_time_password(now: float) -> str:
    """RFC 6238, with the parameters of RFC 4226 that apps have: six digits, SHA-1, thirty seconds."""
    mac = hmac.digest(_OTP_SECRET, struct.pack(">Q", int(now) // 30), "sha1")
    number = struct.unpack(">I", mac[mac[-1] & 15 :][:4])[0] & 0x7FFFFFFF
    return f"{number % 1_000_000:06}"

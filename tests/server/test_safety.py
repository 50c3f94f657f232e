"""Who is let in, and what is refused before anything of the application runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_worker import TOKEN, FakeWorker, Page, page_of

OURS = {"origin": "http://127.0.0.1:8765"}


def reads(worker: FakeWorker, message: dict[str, Any]) -> None:
    """Answer every question for tokens."""
    worker.tell(kind="done", id=message["id"], result={"tokens": [], "top": []})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Page]:
    made = page_of(tmp_path / "page", FakeWorker(reads), upload_limit=50_000)
    with made.client:
        yield made


@pytest.mark.parametrize("path", ["/", "/api/state", "/api/graphs", "/assets/index.js", "/nothing"])
def test_without_a_token_nothing_is_answered(served: Page, path: str) -> None:
    answer = served.client.get(path)
    assert answer.status_code == 401
    assert "lucida serve printed" in answer.text
    assert served.client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert served.client.get(path, headers={"cookie": "lucida-8765=wrong"}).status_code == 401
    assert served.client.get(path, headers={"cookie": f"lucida-8766={TOKEN}"}).status_code == 401
    assert served.client.get(path, headers={"authorization": "Bearer wr\xf6ng".encode("latin-1")}).status_code == 401


def test_the_printed_address_sets_a_cookie_and_leaves_the_address_bar(served: Page) -> None:
    answer = served.client.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"lucida-8765={TOKEN};")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert served.client.get("/").status_code == 200
    assert served.client.get("/api/state").status_code == 200
    served.client.cookies.clear()
    assert served.client.get("/?token=wrong").status_code == 401
    assert served.client.get(f"/?token={TOKEN}&token=other").status_code == 401
    assert served.client.get(f"/api/state?token={TOKEN}").status_code == 401, "only the start page takes it"


@pytest.mark.parametrize(
    "cookies",
    [
        "bad[]=1; {ours}", "a b=c; {ours}", 'x="a; {ours}', "{{json}}; {ours}", "{name}=wrong; {ours}",
        "{ours}; {name}=wrong", "=; ;{ours};",
    ],
)  # fmt: skip
def test_cookies_of_other_programs_do_not_lock_out(served: Page, cookies: str) -> None:
    """All ports of 127.0.0.1 share their cookies, and Python's parser gives up at the first that is no token."""
    sent = cookies.format(ours=f"lucida-8765={TOKEN}", name="lucida-8765")
    assert served.client.get("/api/state", headers={"cookie": sent}).status_code == 200
    wrong = cookies.format(ours="lucida-8765=wrong", name="lucida-8765")
    assert served.client.get("/api/state", headers={"cookie": wrong}).status_code == 401


def test_cookies_may_come_in_several_headers(served: Page) -> None:
    both = [("cookie", f"lucida-8765={TOKEN}"), ("cookie", "a=b")]
    assert served.client.get("/api/state", headers=both).status_code == 200


def test_the_address_that_a_browser_is_started_with_works_once(tmp_path: Path) -> None:
    """Every user of a machine can read the arguments of its programs, a browser's among them."""
    made = page_of(tmp_path / "page", once="for-one-use")
    with made.client:
        address = "/?token=for-one-use"
        assert made.client.get(address, headers={"host": "evil.example"}).status_code == 403
        assert made.client.get("/api/state", headers={"authorization": "Bearer for-one-use"}).status_code == 401
        answer = made.client.get(address)
        assert answer.status_code == 303
        assert f"={TOKEN};" in answer.headers["set-cookie"]
        assert made.client.get(address).status_code == 200, "a second load in the same browser has the cookie"
        made.client.cookies.clear()
        assert made.client.get(address).status_code == 401
        assert made.client.get(f"/?token={TOKEN}").status_code == 303
        assert made.client.get(f"/?token={TOKEN}").status_code == 303
    with page_of(tmp_path / "page").client as client:
        assert client.get("/?token=").status_code == 401, "without one, nothing is the one"


def test_an_address_with_many_fields_is_refused_and_no_bug(served: Page) -> None:
    fields = "&".join(f"a{i}=1" for i in range(30))
    assert served.client.get(f"/?{fields}&token={TOKEN}").status_code == 401


def test_a_link_on_another_site_opens_the_page_without_a_redirect(served: Page) -> None:
    """A strict cookie that is set on the way from another site is held back on a redirect: the page must follow it."""
    answer = served.client.get(f"/?token={TOKEN}", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200
    assert 'http-equiv="refresh"' in answer.text
    assert TOKEN not in answer.text
    assert served.client.get("/?token=wrong", headers={"sec-fetch-site": "cross-site"}).status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1", "127.0.0.1:9999", "127.0.0.1:8765.evil.example", ""]
)
def test_a_wrong_host_is_refused_with_the_right_token(served: Page, host: str) -> None:
    answer = served.client.get("/api/state", headers={**served.headers, "host": host})
    assert answer.status_code == 403
    assert "error" in answer.json()


def test_two_hosts_are_refused(served: Page) -> None:
    twice = [*served.headers.items(), ("host", "127.0.0.1:8765"), ("host", "evil.example")]
    assert served.client.get("/api/state", headers=twice).status_code in (400, 403)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8765", "http://127.0.0.1:9999", "http://localhost"]
)
def test_a_wrong_origin_is_refused_with_the_right_token(served: Page, origin: str) -> None:
    for method in ("GET", "POST"):
        assert (
            served.client.request(method, "/api/state", headers={**served.headers, "origin": origin}).status_code == 403
        )


def test_what_another_site_or_port_starts_is_refused(served: Page) -> None:
    served.client.get(f"/?token={TOKEN}")  # the browser has the cookie
    for site in ("cross-site", "same-site"):
        assert served.client.get("/api/state", headers={"sec-fetch-site": site}).status_code == 403
        assert (
            served.client.post("/api/tokens", json={"prompt": ""}, headers={"sec-fetch-site": site}).status_code == 403
        )
    assert served.client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert served.client.get("/api/state", headers={"sec-fetch-site": "same-origin"}).status_code == 200


def test_a_change_needs_an_origin_or_the_token_itself(served: Page) -> None:
    served.client.get(f"/?token={TOKEN}")
    asked = {"prompt": ""}
    assert served.client.post("/api/tokens", json=asked).status_code == 403, "a cookie alone is what a form could send"
    assert served.client.post("/api/tokens", json=asked, headers=OURS).status_code != 403
    served.client.cookies.clear()
    assert served.client.post("/api/tokens", json=asked, headers=OURS).status_code == 401
    assert served.client.post("/api/tokens", json=asked, headers=served.headers).status_code not in (401, 403)


def test_every_answer_carries_the_policy(served: Page) -> None:
    for answer in (
        served.client.get("/api/state"),
        served.client.get("/api/state", headers=served.headers),
        served.client.get("/api/nothing", headers=served.headers),
        served.client.get("/", headers=served.headers),
    ):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd", "/assets/..%5c..%5capp.py",
        "//etc/passwd", "/api/graphs/..%2f..%2fetc%2fpasswd", "/api/graphs/%2e%2e/view", "/api/graphs/....//notes",
        "/api/graphs/0123456789ab%00/view", "/api/jobs/..%2f..", "/index.html%00.js", "/openapi.json", "/docs",
    ],
)  # fmt: skip
def test_no_path_reaches_the_file_system(served: Page, path: str) -> None:
    secret = served.workspace.folder.parent / "secret.txt"
    secret.write_text("root:secret")
    answer = served.client.get(path, headers=served.headers)
    assert answer.status_code in (404, 422)
    assert "root:" not in answer.text
    assert str(served.workspace.folder) not in answer.text


def test_the_page_that_is_not_built_says_how_to_build_it(served: Page) -> None:
    answer = served.client.get("/", headers=served.headers)
    assert answer.status_code == 200
    assert "make page" in answer.text


def test_a_built_page_is_served_from_a_table(tmp_path: Path) -> None:
    static = tmp_path / "app"
    (static / "assets").mkdir(parents=True)
    (static / "index.html").write_text("<!doctype html><title>built</title>")
    (static / "assets" / "a-1.js").write_text("export {}")
    (tmp_path / "outside.js").write_text("secret")
    (static / "link.js").symlink_to(tmp_path / "outside.js")
    from lucida.server.static import read_static

    table = read_static(static)
    assert sorted(table) == ["/", "/assets/a-1.js", "/index.html"], "no link leads out of the folder"
    assert table["/assets/a-1.js"].kind.startswith("text/javascript")
    assert "immutable" in table["/assets/a-1.js"].cache
    assert table["/"].cache == "no-cache"


def test_bodies_are_bounded(served: Page) -> None:
    long = b'{"prompt": "' + b"a" * (2 * 2**20) + b'"}'
    kind = {**served.headers, "content-type": "application/json"}
    answer = served.client.post("/api/tokens", content=long, headers=kind)
    assert answer.status_code == 413
    assert "2 MiB" in answer.json()["error"]

    def pieces() -> Iterator[bytes]:  # no length is declared
        for _ in range(40):
            yield long[:100_000]

    assert served.client.post("/api/tokens", content=pieces(), headers=kind).status_code == 413
    assert served.client.post("/api/graphs", content=b"x" * 60_000, headers=served.headers).status_code == 413
    assert (
        served.client.post("/api/graphs", content=(b"x" * 9_000 for _ in range(9)), headers=served.headers).status_code
        == 413
    )
    assert list(served.workspace.folder.glob(".incoming-*")) == []
    assert served.client.get("/api/graphs", headers=served.headers).json() == []


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"", b"null", b'{"prompt": NaN}', b'{"prompt": "\\ud800"}',
        b'{"prompt": 1e999}', b'{"prompt": {"$gt": ""}}', b'{"prompt": "a", "extra": 1}', b'{"prompt": "a\\u0000"}',
    ],
)  # fmt: skip
def test_hostile_json_is_refused_in_one_line(served: Page, body: bytes) -> None:
    kind = {**served.headers, "content-type": "application/json"}
    answer = served.client.post("/api/jobs/trace", content=body, headers=kind)
    if body == b'{"prompt": "a\\u0000"}':
        assert answer.status_code == 200, "an odd prompt is a prompt"
        return
    assert answer.status_code in (400, 422)
    assert list(answer.json()) == ["error"]
    assert "\n" not in answer.json()["error"]
    assert len(answer.json()["error"]) < 500

"""Drives the web studio with a real browser: one picture, ordered and delivered, as a person would see it.

    python console_page.py --base-url http://127.0.0.1:8080 --key pk_… --photo product.jpg --screenshot studio.png

Prints one line for each check and ends with 1 when one failed. A second picture of the page, as wide as a phone,
stands beside the first (`studio-phone.png`). The browser is Debian's Chromium; none is ever downloaded. `--axe`
takes a copy of axe-core's `axe.min.js` when there is one; without it the page's own accessibility checks remain.
"""

import argparse
import json
import re
import shutil
import struct
import sys
import urllib.parse
import urllib.request
from pathlib import Path

from playwright.sync_api import Error, sync_playwright

PROMPT = "The bottle on wet slate, morning light from the left, soft mist behind"
RATIO, SIZE, FORMAT = "4:5", "2K", "png"
WIDTH, HEIGHT = 1856, 2304
BROWSER = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ENDED = ["succeeded", "partial", "failed", "canceled", "expired"]

# Runs before the page's own script: what the policy stopped, and every state a job showed.
WATCH = """
  window.__violations = [];
  addEventListener("securitypolicyviolation", (e) => __violations.push(`${e.violatedDirective}: ${e.blockedURI}`));
  window.__states = [];
  new MutationObserver(() => {
    const lead = document.querySelector(".job.lead");
    const seen = lead && `${lead.dataset.id} ${lead.dataset.state}`;
    if (seen && __states.at(-1) !== seen) __states.push(seen);
  }).observe(document, { childList: true, subtree: true, attributes: true });
"""

NEW_AND_ENDED = """({ known, ended }) => {
  const lead = document.querySelector(".job.lead");
  return lead && !known.includes(lead.dataset.id) && ended.includes(lead.dataset.state);
}"""

# Every control that can be reached must have a name; what is returned has none.
NAMELESS = """() => [...document.querySelectorAll("input, select, textarea, button, a[href], summary")]
  .filter((e) => e.type !== "hidden" && e.checkVisibility({ visibilityProperty: true }))
  .filter((e) => {
    const by = (e.getAttribute("aria-labelledby") || "").split(/\\s+/).filter(Boolean)
      .map((id) => document.getElementById(id)?.textContent || "").join("");
    const labels = [...(e.labels || [])].map((l) => l.textContent).join("");
    const text = e.matches("button, a, summary") ? e.textContent : "";
    return !(by || e.getAttribute("aria-label") || labels || text).trim();
  })
  .map((e) => e.outerHTML.slice(0, 120))"""

# WCAG AA: 4.5 to 1, or 3 to 1 for large text. Every visible text is measured against what is painted behind it.
FAINT = """() => {
  const parse = (text) => {
    const n = (text.match(/[\\d.]+(e-?\\d+)?/g) || []).map(Number);
    const unit = text.startsWith("color(") ? 255 : 1;
    return [n[0] * unit, n[1] * unit, n[2] * unit, n[3] ?? 1];
  };
  const over = (top, under) => top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3]));
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) {
      const layer = parse(getComputedStyle(e).backgroundColor);
      if (layer[3] > 0) layers.push(layer);
      if (layer[3] === 1) break;
    }
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = [];
  const measure = (e, style, text) => {
    const under = behind(e), a = light(over(parse(style.color), under)), b = light(under);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const px = parseFloat(style.fontSize), large = px >= 24 || (px >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) faint.push(`${ratio.toFixed(2)} "${text.trim().slice(0, 40)}"`);
  };
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const e = node.parentElement;
    if (!node.data.trim() || !e.checkVisibility({ visibilityProperty: true, opacityProperty: true }) || e.matches("script, style, noscript, option")) continue;
    texts += 1;
    measure(e, getComputedStyle(e), node.data);
  }
  for (const e of document.querySelectorAll("[placeholder]")) {
    if (e.checkVisibility()) measure(e, getComputedStyle(e, "::placeholder"), e.placeholder);
  }
  return { texts, faint };
}"""


class Checks:
    failed = 0

    def __call__(self, what, good, detail=""):
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {what}{f': {detail}' if detail else ''}", flush=True)
        return good


def get(base, path, key=None):
    headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(urllib.request.Request(base + path, headers=headers), timeout=20) as answer:
        return json.load(answer)


def number(text):
    return int(re.sub(r"[^\d]", "", text))


def accessible(check, page, axe, where):
    nameless = page.evaluate(NAMELESS)
    check(f"every control has a name ({where})", not nameless, "; ".join(nameless))
    found = page.evaluate(FAINT)
    check(f"text contrast is AA ({where}, {found['texts']} texts)", not found["faint"], "; ".join(found["faint"]))
    if axe:
        page.evaluate(axe)
        violations = page.evaluate("async () => (await axe.run()).violations")
        check(f"axe-core finds nothing ({where})", not violations,
              "; ".join(f"{each['id']} {each['nodes'][0]['html'][:100]}" for each in violations))


def run(given, check):
    base = given.base_url.rstrip("/")
    origin = urllib.parse.urlsplit(base).netloc
    axe = given.axe.read_text() if given.axe else None
    models = {model["id"]: model for model in get(base, "/v1/models")["data"]}
    before = get(base, "/v1/credits", given.key)
    known = [job["id"] for job in get(base, "/v1/jobs?limit=100", given.key)["data"]]

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=BROWSER)
        context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
        context.add_init_script(WATCH)
        page = context.new_page()
        errors, elsewhere, orders, keys_sent = [], [], [], []

        def saw(request):
            target = urllib.parse.urlsplit(request.url)
            of_the_store = f"{target.scheme}://{target.netloc}" == given.store and request.resource_type == "image"
            if target.scheme in ("http", "https", "ws", "wss") and target.netloc != origin and not of_the_store:
                elsewhere.append(request.url)
            if "authorization" in request.headers:
                keys_sent.append(request.headers["authorization"].removeprefix("Bearer "))
            if request.method == "POST" and target.path == "/v1/jobs":
                orders.append(request)

        context.on("request", saw)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))

        answer = page.goto(f"{base}/#key={given.key}")
        policy = answer.headers.get("content-security-policy", "")
        check("the page comes with a policy that allows nothing by default", "default-src 'none'" in policy and "unsafe" not in policy)
        page.wait_for_selector("#ask[open]")
        check("the key is gone from the address bar before it is used", page.evaluate("location.href") == f"{base}/")
        check("a key in the address opens nothing without a question", not keys_sent and page.is_hidden("#studio")
              and page.evaluate("sessionStorage.length") == 0, page.inner_text("#ask-text"))
        accessible(check, page, axe, "question")
        page.get_by_role("button", name="Use this key").click()
        page.wait_for_selector("#ratios input")
        check("the key that was agreed to is used", set(keys_sent) == {given.key})
        stranger = "pk_000000000000_" + "0" * 43
        for answer, decline in [("button", lambda: page.get_by_role("button", name="Keep my key").click()), ("Escape", lambda: page.keyboard.press("Escape"))]:
            page.evaluate("(key) => { location.hash = `key=${key}`; }", stranger)
            page.wait_for_selector("#ask[open]")
            asked = page.inner_text("#ask-text")
            decline()
            page.wait_for_selector("#ask", state="hidden")
            check(f"another key replaces nothing when it is declined ({answer})", page.is_visible("#studio") and set(keys_sent) == {given.key}
                  and page.evaluate("location.href") == f"{base}/" and page.evaluate("sessionStorage.getItem('platen.key')") == given.key, asked)
        page.evaluate("(key) => { location.hash = `key=${key}`; }", given.key)
        page.wait_for_function("(url) => location.href === url", arg=f"{base}/")
        check("the key that is used already is not asked about", page.is_hidden("#ask"))
        page.evaluate("(key) => { location.hash = `key=${key}`; }", stranger)
        page.get_by_role("button", name="Use this key").click()
        page.wait_for_selector("#gate")
        check("a key that is no key opens nothing", "not known" in page.inner_text("#key-error"), page.inner_text("#key-error"))
        errors[:] = [error for error in errors if "401" not in error]  # the browser tells of the answer just awaited
        page.fill("#key", given.key)
        page.get_by_role("button", name="Open", exact=True).click()
        page.wait_for_selector("#studio", state="visible")
        check("the balance is the API's", number(page.inner_text("#available")) == before["available"], page.inner_text("#available"))
        accessible(check, page, axe, "empty form")

        if given.model:
            page.get_by_label("Model", exact=True).select_option(given.model)
        page.get_by_label("Prompt").fill(PROMPT)
        page.set_input_files("#photo", given.photo)
        page.get_by_role("radio", name=RATIO, exact=True).check()
        page.get_by_role("radio", name=SIZE, exact=True).check()
        page.get_by_role("radio", name="PNG", exact=True).check()
        page.wait_for_function("() => document.querySelector('#photos img')?.naturalWidth > 0")
        check("the photo is shown", page.locator("#photos li").count() == 1)

        model = models[page.input_value("#model")]
        price = model["price"]["credits"][SIZE]
        shown = page.inner_text("#price")
        check("the price is the catalogue's", number(shown) == price, f"{shown}, {model['id']}")
        check("the size is said in pixels", page.inner_text("#pixels") == f"{SIZE} at {RATIO} = {WIDTH} × {HEIGHT} px", page.inner_text("#pixels"))

        page.get_by_role("button", name="Generate").click()
        page.wait_for_function(NEW_AND_ENDED, arg={"known": known, "ended": ENDED}, timeout=given.timeout * 1000)
        lead = page.locator(".job.lead")
        states = [state for job_id, state in map(str.split, page.evaluate("__states")) if job_id == lead.get_attribute("data-id")]
        if not check("the job succeeded", lead.get_attribute("data-state") == "succeeded", " → ".join(states)):
            print(lead.inner_text())
        check("it was seen open first", any(state in ("queued", "running") for state in states))
        sent = [order.headers.get("idempotency-key", "") for order in orders]
        check("one order was sent, under a UUID", len(sent) == 1 and bool(UUID.fullmatch(sent[0])), ", ".join(sent))

        picture = lead.locator("figure img").first
        picture.scroll_into_view_if_needed()
        page.wait_for_function("() => document.querySelector('.job.lead figure img')?.complete")
        natural = picture.evaluate("(image) => [image.naturalWidth, image.naturalHeight]")
        check("the picture has exactly its pixels", natural == [WIDTH, HEIGHT], f"{natural[0]} × {natural[1]}")
        source = picture.evaluate("(image) => image.currentSrc")
        whence = given.store or base
        check("the picture comes from where its link leads", source.startswith(f"{whence}/"), source.split("?")[0])
        link = lead.get_by_role("link", name="Download")
        with urllib.request.urlopen(urllib.parse.urljoin(base, link.get_attribute("href")), timeout=30) as file:
            head = file.read(24)
        check("the download is a PNG of that size", head[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", head[16:24]) == (WIDTH, HEIGHT))

        job = get(base, f"/v1/jobs/{lead.get_attribute('data-id')}", given.key)
        synthetic = any(artifact.get("synthetic") for artifact in job["artifacts"])
        check("a picture no AI made says so", (lead.locator(".honest").count() > 0) == synthetic, "synthetic" if synthetic else "made by a model")
        check("the card says what was charged", f"{price} credit" in lead.locator(".money").inner_text(), lead.locator(".money").inner_text())
        after = get(base, "/v1/credits", given.key)
        check("the balance fell by exactly the price", before["available"] - after["available"] == price, f"{before['available']} → {after['available']}")
        try:
            page.wait_for_function("(wanted) => Number(document.querySelector('#available').textContent.replace(/\\D/g, '')) === wanted", arg=after["available"], timeout=5000)
        except Error:
            pass
        check("the page shows the new balance", number(page.inner_text("#available")) == after["available"], page.inner_text("#available"))

        accessible(check, page, axe, "delivered")
        page.screenshot(path=given.screenshot)
        page.emulate_media(color_scheme="dark")
        accessible(check, page, axe, "delivered, dark")
        page.emulate_media(color_scheme="light")

        page.set_viewport_size({"width": 390, "height": 844})
        page.locator("#jobs").scroll_into_view_if_needed()
        check("nothing is wider than a phone", page.evaluate("document.documentElement.scrollWidth <= innerWidth"))
        accessible(check, page, axe, "phone")
        lead.evaluate("(card) => card.scrollIntoView({ block: 'start' })")
        page.screenshot(path=given.screenshot.with_stem(given.screenshot.stem + "-phone"))

        page.set_viewport_size({"width": 1280, "height": 900})
        page.locator("#prompt").fill("")
        page.get_by_role("button", name="Generate").click()
        check("an empty prompt is named beside the prompt", bool(page.inner_text("#prompt-error")) and len(orders) == 1, page.inner_text("#prompt-error"))
        violations = page.evaluate("__violations")
        page.reload()
        page.wait_for_selector(f".job[data-id={job['id']}]")
        check("the job is listed after a reload", True)
        page.get_by_role("button", name="Forget key").click()
        check("a forgotten key leaves nothing behind", page.is_visible("#gate") and page.evaluate("sessionStorage.length + localStorage.length") == 0
              and page.locator(".job").count() == 0)

        check("no console errors", not errors, "; ".join(errors))
        violations += page.evaluate("__violations")
        check("no policy violations", not violations, "; ".join(violations))
        check("no request to another origin but for pictures of the store" if given.store else "no request to another origin", not elsewhere, "; ".join(elsewhere))
        browser.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--photo", required=True, type=Path)
    parser.add_argument("--screenshot", required=True, type=Path)
    parser.add_argument("--model", help="a model of the catalogue that makes 2K; the page's own choice without it")
    parser.add_argument("--store", help="the origin of the store, where it signs the links to pictures")
    parser.add_argument("--axe", type=Path, help="axe.min.js of axe-core")
    parser.add_argument("--timeout", type=float, default=120, help="seconds the picture may take")
    check = Checks()
    try:
        run(parser.parse_args(), check)
    except Error as error:  # something never came, or could not be chosen: what was checked so far stands above
        check("the page could be used to the end", False, error.message.split("\n")[0])
    print(f"{check.failed} failed" if check.failed else "all good")
    sys.exit(1 if check.failed else 0)


if __name__ == "__main__":
    main()

// The list of jobs: selecting. The page of a job: what changes refreshes itself.
"use strict";

(function () {
  // The list ---------------------------------------------------------------------------------

  const form = document.getElementById("changelist-form");
  const toggle = document.getElementById("dt-toggle");
  if (form && toggle) {
    const boxes = Array.from(form.querySelectorAll('input[name="_selected_action"]'));
    const shown = form.querySelector("[data-dt-selected]");
    let last = null;
    const update = function () {
      const count = boxes.filter((box) => box.checked).length;
      toggle.checked = count === boxes.length;
      toggle.indeterminate = count > 0 && count < boxes.length;
      if (shown) {
        shown.textContent = count;
        shown.hidden = count === 0;
      }
    };
    toggle.addEventListener("change", function () {
      for (const box of boxes) {
        box.checked = toggle.checked;
      }
      update();
    });
    for (const box of boxes) {
      box.addEventListener("click", function (event) {
        // With the shift key: all from the one clicked before to this one.
        if (event.shiftKey && last !== null) {
          const ends = [boxes.indexOf(last), boxes.indexOf(box)].sort((a, b) => a - b);
          for (const each of boxes.slice(ends[0], ends[1] + 1)) {
            each.checked = box.checked;
          }
        }
        last = box;
        update();
      });
    }
    update();
  }

  const filters = document.querySelector(".dt-filters");
  if (filters) {
    for (const select of filters.querySelectorAll("select")) {
      select.addEventListener("change", () => filters.requestSubmit());
    }
    // Short addresses: what is empty is not asked for.
    filters.addEventListener("submit", function () {
      for (const field of filters.querySelectorAll("input[name], select[name]")) {
        if (!field.value && field.name !== "error_place") {
          field.disabled = true;
        }
      }
    });
  }

  // The page of a job ------------------------------------------------------------------------

  const PAUSE = 2000;
  const LONGEST_PAUSE = 30000;
  let pause = PAUSE;

  async function refresh() {
    const page = document.querySelector(".dt-job[data-dt-changes]");
    if (!page) {
      return;
    }
    if (document.hidden) {
      document.addEventListener("visibilitychange", refresh, { once: true });
      return;
    }
    try {
      const response = await fetch(window.location.href, { credentials: "same-origin" });
      const text = await response.text();
      const fresh = new DOMParser().parseFromString(text, "text/html").querySelector(".dt-job");
      if (!response.ok || response.redirected || !fresh) {
        return; // deleted, or logged out: what is shown stays
      }
      replace(page, fresh);
      pause = PAUSE;
    } catch {
      pause = Math.min(2 * pause, LONGEST_PAUSE); // the server does not answer
    }
    window.setTimeout(refresh, pause);
  }

  function replace(page, fresh) {
    const inside = page.contains(document.activeElement) || !window.getSelection().isCollapsed;
    if (page.dataset.dtState !== fresh.dataset.dtState && !inside) {
      page.replaceWith(document.importNode(fresh, true));
      return;
    }
    for (const part of page.querySelectorAll("[data-dt-live]")) {
      const now = fresh.querySelector("#" + part.id);
      if (now && part.innerHTML !== now.innerHTML) {
        part.replaceChildren(...document.importNode(now, true).childNodes);
      }
    }
  }

  if (document.querySelector(".dt-job[data-dt-changes]")) {
    window.setTimeout(refresh, pause);
  }
})();

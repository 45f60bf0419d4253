// Files and folders dropped anywhere on the page go the way of those that are chosen, and what is
// larger than the server takes is refused here, because the server would end the connection.
(() => {
  const open = HTMLInputElement.prototype.click;
  let dropped = null;
  let waiting = null;

  HTMLInputElement.prototype.click = function () {
    if (this.type !== "file") return open.call(this);
    if (!this.brainlibGuarded) {
      this.addEventListener("change", refuseLarge, { capture: true });
      this.brainlibGuarded = true;
    }
    if (!dropped) return open.call(this);
    this.files = dropped;
    dropped = null;
    this.dispatchEvent(new Event("change"));
  };

  function refuseLarge(event) {
    const megabytes = Number(document.querySelector("[data-megabytes]").dataset.megabytes);
    const size = Array.from(this.files).reduce((sum, file) => sum + file.size, 0) / 1e6;
    const box = document.querySelector(".brainlib-drop");
    document.querySelector(".brainlib-toolarge")?.remove();
    if (size < megabytes) {
      // what is chosen next replaces these files, even where a browser adds to those of an input
      setTimeout(() => { this.value = ""; });
      return hideOldAnswer();
    }
    event.stopImmediatePropagation();
    const line = document.createElement("div");
    line.className = "brainlib-problems brainlib-toolarge";
    line.textContent = `These files total ${Math.ceil(size)} MB; the limit is ${megabytes} MB: ` +
      "choose fewer, one series at a time.";
    box.after(line);
  }

  // From the drop until the kernel has it, the answer to an earlier scan must not be on the page.
  function hideOldAnswer() {
    const page = document.querySelector(".brainlib-page");
    page.classList.add("brainlib-waiting");
    new MutationObserver((_, observer) => {
      observer.disconnect();
      page.classList.remove("brainlib-waiting");
    }).observe(page.querySelector(".brainlib-status"), { childList: true, subtree: true });
  }

  // A drop while an upload is being read waits for its end; of several the last one counts.
  async function hand(files) {
    waiting = files;
    for (;;) {
      const button = document.querySelector(".brainlib-drop .widget-upload");
      if (waiting !== files) return;
      if (button && !button.disabled) {
        waiting = null;
        dropped = files;
        button.click();
        dropped = null;
        return;
      }
      await new Promise((later) => setTimeout(later, 100));
    }
  }

  async function collect(transfer) {
    const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const found = new DataTransfer();
    if (!entries.length) Array.from(transfer.files, (file) => found.items.add(file));
    for (const entry of entries) await walk(entry, found);
    return found.files;
  }

  async function walk(entry, found, folder = "") {
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      found.items.add(folder ? new File([file], `${folder}\\${file.name}`) : file);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const inside = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!inside.length) return;
      for (const one of inside) if (!one.name.startsWith(".")) await walk(one, found, entry.name);
    }
  }

  const marked = (on) => document.body.classList.toggle("brainlib-dropping", on);
  document.addEventListener("dragover", (event) => { event.preventDefault(); marked(true); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) marked(false); });
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    marked(false);
    const files = await collect(event.dataTransfer);
    if (files.length) hand(files);
  });
})();

// Lets the search work on pages opened from disk, where browsers start no workers: the
// worker's script runs in a hidden frame instead. The theme looks for this file's name.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      addEventListener("message", ({ source, data }) => {
        if (source !== this.inside) return;
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        this.onmessage?.(event);
      });
      this.inside.document.write(
        `<script>
          postMessage = data => parent.postMessage(data, "*");
          importScripts = (...all) => all.reduce((before, src) => before.then(() =>
            new Promise((onload, onerror) => document.body.append(
              Object.assign(document.createElement("script"), { src, onload, onerror })
            ))), Promise.resolve());
        <\/script>
        <body><script src="${address}"><\/script>`,
      );
      this.inside.document.close();
      this.ready = new Promise((done) => (frame.onload = done));
    }

    postMessage(data) {
      this.ready.then(() =>
        this.inside.dispatchEvent(new MessageEvent("message", { data })),
      );
    }
  };
}

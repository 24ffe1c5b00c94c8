// Search in pages that are opened as files: browsers start no worker from a file, so it runs in a hidden frame instead.
// The theme's worker looks for `IFrameWorker` to know where its other scripts lie, and waits for `importScripts`.
(() => {
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.ready = new Promise((resolve) => { this.frame.begin = resolve })
      this.frame.answer = (data) => setTimeout(() => this.dispatchEvent(new MessageEvent("message", { data })))
      const prepare = `
        window.postMessage = (message) => frameElement.answer(message)
        window.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((resolve) => {
          const script = document.createElement("script")
          script.src = url
          script.onload = resolve
          document.body.appendChild(script)
        })), Promise.resolve())`
      document.body.appendChild(this.frame)
      const inside = this.frame.contentDocument
      inside.open()
      const source = new URL(url, document.baseURI)
      inside.write(`<body><script>${prepare}<\/script><script src="${source}" onload="frameElement.begin()"><\/script></body>`)
      inside.close()
    }

    postMessage(message) {
      this.ready.then(() => {
        this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: structuredClone(message) }))
      })
    }

    terminate() {
      this.frame.remove()
    }
  }

  if (location.protocol === "file:") {
    window.IFrameWorker = window.Worker = IFrameWorker
  }
})()

// Not a module, because it says when the modules of the page cannot be loaded: browsers load none for a page that is
// opened as a file.
addEventListener(
  "error",
  ({ target }) => {
    if (!(target instanceof HTMLScriptElement)) return;
    const say = () => {
      document.getElementById("status").textContent = "";
      const message = document.getElementById("message");
      message.textContent =
        location.protocol === "file:"
          ? "Browsers do not run this page from a file. Start a web server in its folder, for example: python -m http.server"
          : "A script of this page could not be loaded. Reload the page to try again.";
      message.hidden = false;
    };
    if (document.getElementById("message")) say();
    else addEventListener("DOMContentLoaded", say);
  },
  true, // such events do not bubble
);

// The page sends nothing without a key where one is needed, and its key with all that it sends; what is refused it says.
// It looks whether the service is ready, and shows an example when it is.
const guest = {
  key: () => document.getElementById("key")?.value.trim() ?? "",
  needsKey: false,

  async arrive(head, trigger) {
    const field = head.querySelector(".rr-key"), status = head.querySelector(".rr-status");
    const hint = () => document.querySelector("#ranking .rr-hint"); // there until something is ranked
    const told = async (path) => (await fetch(new URL(path, document.baseURI))).json();
    let ready = false;

    const look = async () => {
      let said = "The service cannot be reached", coming = said;
      try {
        guest.needsKey = Boolean((await told("../v1/cluster/auth")).auth);
        const {model, replicas, message, status: state} = await told("../health");
        ready = typeof replicas === "number";
        said = ready ? `${model}, ${replicas.toLocaleString("en")} replica${replicas === 1 ? "" : "s"}` : message;
        const stage = replicas?.[0]?.stage; // of loading; in its place nothing is known before a process has begun
        coming = ready ? "" : state === "starting" ? `The model is still loading${stage ? ` (${stage})` : ""}` : said;
      } catch { /* said below */ }
      status.textContent = said;
      status.className = `rr-status ${ready ? "ok" : "bad"}`;
      status.hidden = false;
      field.hidden = !guest.needsKey;
      if (!hint()) return;
      if (coming) hint().textContent = `${coming}. The example is ranked here once it can be.`;
      else if (guest.needsKey) hint().textContent = "With an API key, typed above, the example is ranked here.";
    };
    // The page is filled with what the visitor may see. The example nobody has asked for: it is ranked once.
    const fill = () => {
      if (guest.needsKey && !guest.key()) return;
      trigger("submit");
      if (ready && hint()) trigger("apply");
    };

    field.querySelector("input").addEventListener("change", fill);
    await look();
    fill();
    while (!ready) {
      await new Promise((resolve) => setTimeout(resolve, 3000));
      if (document.visibilityState !== "visible") continue;
      await look();
      if (ready) fill();
    }
  },

  say(title = "", message = "") {
    const place = document.getElementById("refused"), before = place.textContent;
    place.hidden = !title;
    place.replaceChildren(...[["h4", title], ["p", message]].map(([kind, text]) => {
      const element = document.createElement(kind);
      element.textContent = text;
      return element;
    }));
    if (title && place.textContent !== before) place.scrollIntoView({block: "center"});
  },

  // An answer to an event with which nothing on the page changes.
  unchanged(event) {
    const {outputs} = window.gradio_config.dependencies.find((one) => one.id === event.fn_index);
    return Response.json({data: outputs.map(() => ({__type__: "update"})), is_generating: false});
  },

  async send(input, options) {
    const key = guest.key(), event = JSON.parse(options.body);
    if (guest.needsKey && !key) {
      guest.say("An API key is needed", "Type it into the field above. Ask whoever runs the service for one.");
      return guest.unchanged(event);
    }
    const headers = new Headers(options.headers);
    if (key) headers.set("Authorization", `Bearer ${key}`);
    const answer = await guest.fetch(input, {...options, headers});
    if (answer.ok) {
      guest.say();
      return answer;
    }
    const {message} = await answer.json().catch(() => ({}));
    if (answer.status === 401 && key) {
      guest.say("This API key is not known", "Check it: no space, nothing missing.");
    } else if (answer.status === 413) {
      guest.say("Too much at once", "Send fewer or shorter documents.");
    } else {
      guest.say("The playground did not answer", message ?? "Try again in a few seconds.");
    }
    return guest.unchanged(event);
  },
};
guest.fetch = window.fetch.bind(window);
window.guest = guest;
window.fetch = (input, options) =>
  options?.method === "POST" && String(input?.url ?? input).includes("/gradio_api/run/")
    ? guest.send(input, options)
    : guest.fetch(input, options);

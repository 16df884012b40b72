// Reads a file in the browser: nothing is uploaded or stored, its text goes into the form as if it had been typed.
const LARGEST = 4 * 2 ** 20;
const input = element.querySelector("input");
const said = element.querySelector("span");
input.addEventListener("change", async () => {
  const [file] = input.files;
  if (!file) return;
  input.value = ""; // so that the same file can be opened again
  if (file.size > LARGEST) {
    said.textContent = "The file is too large; at most 4 MiB can be opened here.";
    return;
  }
  try {
    const content = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    said.textContent = file.name;
    trigger("upload", { name: file.name, content });
  } catch {
    said.textContent = "The file is not UTF-8 text; save it as UTF-8.";
  }
});

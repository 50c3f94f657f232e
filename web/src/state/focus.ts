// Where the keyboard is, also inside the shadow root of a notebook's widget.

/** The element with the focus in the tree that `inside` belongs to: a document only knows the shadow root's host. */
export function focused(inside: Node): Element | null {
  return (inside.getRootNode() as Document | ShadowRoot).activeElement
}

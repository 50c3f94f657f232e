// Two prompts side by side: which token stands for which.

export interface AlignedPair {
  a: number | null
  b: number | null
}

/** Tokens of two prompts in pairs, in order: a longest common run of equal tokens lines up; what differs between two
 * equal ones is paired as far as it goes. With `byPosition` token i stands beside token i. */
export function align(a: string[], b: string[], byPosition: boolean): AlignedPair[] {
  if (byPosition) {
    return Array.from({ length: Math.max(a.length, b.length) }, (_, i) => ({
      a: i < a.length ? i : null,
      b: i < b.length ? i : null,
    }))
  }
  const pairs: AlignedPair[] = []
  let [fromA, fromB] = [0, 0]
  for (const [i, j] of [...common(a, b), [a.length, b.length]]) {
    // Between two equal tokens: pair what there is, then what is left over on either side.
    for (; fromA < i || fromB < j; fromA++, fromB++) {
      pairs.push({ a: fromA < i ? fromA : null, b: fromB < j ? fromB : null })
    }
    if (i < a.length) pairs.push({ a: i, b: j })
    ;[fromA, fromB] = [i + 1, j + 1]
  }
  return pairs
}

/** A longest common subsequence, as pairs of places. */
function common(a: string[], b: string[]): [number, number][] {
  const width = b.length + 1
  const longest = new Uint16Array((a.length + 1) * width)
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      longest[i * width + j] =
        a[i] === b[j]
          ? longest[(i + 1) * width + j + 1] + 1
          : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1])
    }
  }
  const found: [number, number][] = []
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) found.push([i++, j++])
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i++
    else j++
  }
  return found
}

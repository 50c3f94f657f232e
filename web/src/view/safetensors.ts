// Just enough of safetensors: named arrays of numbers and a map of texts (github.com/huggingface/safetensors, "Format").

const ARRAYS = { U8: Uint8Array, I32: Int32Array, U32: Uint32Array, F32: Float32Array } as const

interface Entry {
  dtype: string
  shape: number[]
  data_offsets: [number, number]
}

export interface Safetensors {
  metadata: Record<string, string>
  tensors: Map<string, ArrayBufferView>
}

/** Read a file. Arrays are views of `bytes` where their place allows it, else copies. */
export function readSafetensors(bytes: ArrayBuffer): Safetensors {
  if (bytes.byteLength < 8) throw new Error('the file is cut short')
  const length = Number(new DataView(bytes).getBigUint64(0, true))
  const start = 8 + length
  if (start > bytes.byteLength) throw new Error('the file is cut short')
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, length))) as Record<string, unknown>
  const tensors = new Map<string, ArrayBufferView>()
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const { dtype, data_offsets } = value as Entry
    const type = ARRAYS[dtype as keyof typeof ARRAYS]
    if (!type) throw new Error(`column ${name} is of type ${dtype}, which this page does not read`)
    const [from, to] = [start + data_offsets[0], start + data_offsets[1]]
    if (to > bytes.byteLength) throw new Error('the file is cut short')
    const size = type.BYTES_PER_ELEMENT
    const isAligned = from % size === 0
    tensors.set(name, isAligned ? new type(bytes, from, (to - from) / size) : new type(bytes.slice(from, to)))
  }
  return { metadata: (header.__metadata__ ?? {}) as Record<string, string>, tensors }
}

import { describe, expect, test } from 'vitest'
import { format, graphOf, parse, readAddress, writeAddress, type Address, type Page } from '../src/state/route'

describe('routes', () => {
  const known: [Page, (string | number)[], Record<string, string>][] = [
    ['trace', [], {}],
    ['trace', ['0123456789ab'], { sel: '4', pin: '1,2', n: '.6' }],
    ['features', [], { q: 'the word "p" & more' }],
    ['features', [3], {}],
    ['features', [3, 4096], {}],
    ['compare', [], { a: '0123456789ab', b: 'ba9876543210' }],
    ['steer', [], { f: '3:17' }],
  ]
  test.each(known)('%s %j %j is read as it was written', (page, path, query) => {
    const read = parse(format(page, path, query))
    expect(read).toEqual({ page, path: path.map(String), query })
  })

  test('the empty address is the start page', () => {
    for (const hash of ['', '#', '#/', '#/?']) expect(parse(hash)).toEqual({ page: 'trace', path: [], query: {} })
    expect(graphOf(parse('#/'))).toBeNull()
  })

  test('the graph of a route', () => {
    expect(graphOf(parse('#/graph/0123456789ab?sel=1'))).toBe('0123456789ab')
    expect(graphOf(parse('#/features/1/2'))).toBeNull()
  })

  test.each([
    '#/graph', '#/graph/', '#/graph/..%2f..%2fetc', '#/graph/0123456789AB', '#/graph/0123456789ab/more', '#/graph/0123',
    '#/features/x', '#/features/1/2/3', '#/features/-1', '#/compare/a', '#/nothing', '#/%E0%A4%A', '#/%00',
  ])('%s is unknown, not an exception', (hash) => expect(parse(hash).page).toBe('unknown'))
})

describe('addresses', () => {
  test('are read as they were written', () => {
    const address: Address = {
      selected: 0, pinned: [3, 1], nodeShare: 0.6, edgeShare: 0.9812, linkType: 'both', hiddenKinds: ['error', 'bias'],
    }
    expect(readAddress(writeAddress(address))).toEqual(address)
  })

  test('survive the whole way through a URL', () => {
    const query = writeAddress({ selected: 7, pinned: [1, 2], nodeShare: 1, edgeShare: 0.05 })
    expect(readAddress(parse(format('trace', ['0123456789ab'], query)).query)).toEqual({
      selected: 7, pinned: [1, 2], nodeShare: 1, edgeShare: 0.05,
    })
  })

  test('say nothing of what is as it always is', () => {
    expect(writeAddress({ pinned: [], linkType: 'either', hiddenKinds: [] })).toEqual({})
  })

  test.each<Record<string, string>>([
    { sel: '-1' }, { sel: '1e9' }, { sel: '' }, { n: '0' }, { n: '2' }, { n: '.' }, { n: 'NaN' }, { e: '1.5' }, { e: '-.5' },
    { link: 'sideways' }, { sel: '99999999999999999999' },
  ])('leave out what cannot be meant: %j', (query) => expect(readAddress(query)).toEqual({}))

  test('of pins keep the numbers and drop the rest', () => {
    expect(readAddress({ pin: '3,x,-1,3,,4' }).pinned).toEqual([3, 4])
    expect(readAddress({ pin: '' }).pinned).toEqual([])
  })
})

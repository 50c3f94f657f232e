// All that a drawing needs to know, and where a node of it is on screen.
import type { Edge, GraphView } from '../view/view'
import type { GraphState } from './core'
import type { Palette } from './colours'
import { levelY, type Layout, type Size } from './layout'
import type { Camera } from './zoom'

export interface Area extends Size {
  left: number
  top: number
}

export interface Scene {
  view: GraphView
  state: GraphState
  layout: Layout
  camera: Camera
  /** The part of the picture inside the axes. */
  plot: Area
  size: Size
  palette: Palette
  /** Background edges, strongest first. */
  edges: Uint32Array
  /** Width of a text in pixels. */
  measure: (text: string, font: string) => number
}

/** The node whose edges are drawn: the selected one, else the hovered one. */
export interface Focus {
  row: number
  isSelected: boolean
  edges: Edge[]
  /** Strongest signed share of each connected row. */
  shares: Map<number, number>
}

export function screenX(scene: Pick<Scene, 'layout' | 'camera' | 'plot'>, row: number): number {
  return scene.plot.left + scene.layout.x[row] * scene.camera.kx + scene.camera.tx
}

export function screenY(scene: Pick<Scene, 'layout' | 'camera' | 'plot'>, row: number): number {
  return scene.plot.top + scene.layout.y[row] * scene.camera.ky + scene.camera.ty
}

export function levelOnScreen(scene: Scene, level: number): number {
  const { layout, camera, plot } = scene
  return plot.top + levelY(layout, level) * camera.ky + camera.ty
}

export const contains = (area: Area, x: number, y: number, margin = 0): boolean =>
  x >= area.left - margin && x <= area.left + area.width + margin &&
  y >= area.top - margin && y <= area.top + area.height + margin

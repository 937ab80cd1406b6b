# SPDX-License-Identifier: Apache-2.0
"""Graphs as dictionaries of lists of neighbours."""


def reachable(graph, start):
  """Returns the nodes that can be reached, in breadth-first order."""
  seen = [start]
  place = 0
  while place < len(seen):
    for node in graph.get(seen[place], []):
      if node not in seen:
        seen.append(node)
    place += 1
  return seen


def shortest_path(graph, start, goal):
  """Returns a path with the fewest edges as a list of nodes; [] for none."""
  came_from = {start: None}
  queue = [start]
  while queue:
    node = queue.pop(0)
    if node == goal:
      path = []
      while node is not None:
        path.insert(0, node)
        node = came_from[node]
      return path
    for neighbour in graph.get(node, []):
      if neighbour not in came_from:
        came_from[neighbour] = node
        queue.append(neighbour)
  return []


def topological(graph):
  """Orders nodes so that edges go to later ones; [] if there is a circle."""
  incoming = dict.fromkeys(graph, 0)
  for targets in graph.values():
    for target in targets:
      incoming[target] = incoming.get(target, 0) + 1
  ready = sorted(node for node in incoming if incoming[node] == 0)
  order = []
  while ready:
    node = ready.pop(0)
    order.append(node)
    for target in graph.get(node, []):
      incoming[target] -= 1
      if incoming[target] == 0:
        ready.append(target)
  return order if len(order) == len(incoming) else []


def components(graph):
  """Groups the nodes of an undirected graph that are connected, sorted."""
  groups = []
  seen = []
  for node in sorted(graph):
    if node in seen:
      continue
    group = reachable(graph, node)
    seen.extend(group)
    groups.append(sorted(group))
  return groups


def cheapest(costs, start, goal):
  """Returns the lowest cost of a path, from {node: {neighbour: cost}}."""
  best = {start: 0}
  done = []
  while len(done) < len(best):
    node = min((x for x in best if x not in done), key=lambda x: best[x])
    done.append(node)
    for neighbour, cost in costs.get(node, {}).items():
      total = best[node] + cost
      if neighbour not in best or total < best[neighbour]:
        best[neighbour] = total
  return best.get(goal, -1)

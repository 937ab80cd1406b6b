# SPDX-License-Identifier: Apache-2.0
"""Dictionaries and lists of them."""


def group_by(rows, key):
  """Returns the rows by their value of `key`, in the order of the rows."""
  groups = {}
  for row in rows:
    groups.setdefault(row[key], []).append(row)
  return groups


def invert(mapping):
  """Returns for each value the sorted keys that have it."""
  inverted = {}
  for key, value in mapping.items():
    inverted.setdefault(value, []).append(key)
  return {value: sorted(keys) for value, keys in inverted.items()}


def deep_get(tree, path, default=None):
  """Follows keys that stand between dots through nested dictionaries."""
  for key in path.split("."):
    if not isinstance(tree, dict) or key not in tree:
      return default
    tree = tree[key]
  return tree


def deep_merge(left, right):
  """Merges nested dictionaries; where both have a value, the right one's."""
  merged = dict(left)
  for key, value in right.items():
    if isinstance(value, dict) and isinstance(merged.get(key), dict):
      merged[key] = deep_merge(merged[key], value)
    else:
      merged[key] = value
  return merged


def flatten_keys(tree, prefix=""):
  """Returns a nested dictionary as a flat one with dots in its keys."""
  flat = {}
  for key, value in tree.items():
    name = prefix + "." + key if prefix else key
    if isinstance(value, dict):
      flat.update(flatten_keys(value, name))
    else:
      flat[name] = value
  return flat


def order_total(order):
  """Returns the price of an order in cents: quantities, discount, postage."""
  total = 0
  for item in order["items"]:
    total += item["price"] * item["quantity"]
  if total >= order.get("discount_from", 10000):
    total -= total * order.get("discount", 0) // 100
  if total < 5000:
    total += order.get("postage", 490)
  return total


def top_scores(rows, count):
  """Returns the names of the best rows; equal scores in order of names."""
  ordered = sorted(rows, key=lambda row: (-row["score"], row["name"]))
  return [row["name"] for row in ordered[:count]]


def changed_keys(old, new):
  """Returns the keys that were added, removed and changed, each sorted."""
  added = sorted(key for key in new if key not in old)
  removed = sorted(key for key in old if key not in new)
  changed = sorted(key for key in old if key in new and old[key] != new[key])
  return {"added": added, "removed": removed, "changed": changed}

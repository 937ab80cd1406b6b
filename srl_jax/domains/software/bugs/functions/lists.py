# SPDX-License-Identifier: Apache-2.0
"""Lists and what they hold."""


def chunks(items, size):
  """Cuts a list into lists of `size` items; the last one may be shorter."""
  parts = []
  for start in range(0, len(items), size):
    parts.append(items[start : start + size])
  return parts


def rotate(items, count):
  """Moves the first `count` items to the end; also more than there are."""
  if not items:
    return []
  count = count % len(items)
  return items[count:] + items[:count]


def unique(items):
  """Returns the items without those that were there before."""
  kept = []
  for item in items:
    if item not in kept:
      kept.append(item)
  return kept


def flatten(items):
  """Returns the items of nested lists in one list."""
  flat = []
  for item in items:
    if isinstance(item, list):
      flat.extend(flatten(item))
    else:
      flat.append(item)
  return flat


def merge_sorted(left, right):
  """Merges two sorted lists into one."""
  merged = []
  i, j = 0, 0
  while i < len(left) and j < len(right):
    if left[i] <= right[j]:
      merged.append(left[i])
      i += 1
    else:
      merged.append(right[j])
      j += 1
  return merged + left[i:] + right[j:]


def find_sorted(items, wanted):
  """Returns the place of an item in a sorted list, or -1."""
  low, high = 0, len(items) - 1
  while low <= high:
    middle = (low + high) // 2
    if items[middle] == wanted:
      return middle
    if items[middle] < wanted:
      low = middle + 1
    else:
      high = middle - 1
  return -1


def longest_rise(values):
  """Returns the length of the longest rising run of neighbours."""
  if not values:
    return 0
  best, length = 1, 1
  for place in range(1, len(values)):
    if values[place] > values[place - 1]:
      length += 1
      best = max(best, length)
    else:
      length = 1
  return best


def split_by(items, mark):
  """Cuts a list at each item that is `mark`, which is left out."""
  parts, part = [], []
  for item in items:
    if item == mark:
      parts.append(part)
      part = []
    else:
      part.append(item)
  parts.append(part)
  return parts

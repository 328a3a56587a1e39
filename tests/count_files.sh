#!/usr/bin/env bash
# Counts the files that a commit touches, to keep common changes small:
#
#     tests/count_files.sh rpc COMMIT          one call more, at most 8 files
#     tests/count_files.sh entry-kind COMMIT   one kind of entry more, with its event and its line in a
#                                              history, at most 12 files
#
# What `cargo run -p codegen` writes is counted apart: nobody edits it.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  echo "usage: tests/count_files.sh rpc|entry-kind COMMIT" >&2
  exit 2
}

[ $# -eq 2 ] || usage
case "$1" in
  rpc) files_max=8 ;;
  entry-kind) files_max=12 ;;
  *) usage ;;
esac
commit="$(git rev-parse --verify --quiet "$2^{commit}")" || usage

# Generated files are in folders of that name; a generated document says so in its first line.
is_generated() {
  case "$1" in
    */generated/*) return 0 ;;
    *.md) git show "$commit:$1" 2> /dev/null | head -n 1 | grep --quiet 'cargo run -p codegen' ;;
    *) return 1 ;;
  esac
}

written=()
generated=()
while IFS= read -r path; do
  if is_generated "$path"; then generated+=("$path"); else written+=("$path"); fi
done < <(git diff --name-only "$commit^" "$commit")

echo "${#written[@]} files by hand, of at most $files_max:"
[ ${#written[@]} -eq 0 ] || printf '  %s\n' "${written[@]}"
echo "${#generated[@]} generated:"
[ ${#generated[@]} -eq 0 ] || printf '  %s\n' "${generated[@]}"
[ ${#written[@]} -le "$files_max" ]

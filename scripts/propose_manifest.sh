#!/usr/bin/env bash
# Opens a pull request with weights_manifest.yaml if it has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
if git diff --quiet -- weights_manifest.yaml; then
  echo "weights_manifest.yaml is unchanged"
  exit 0
fi
branch="weights-$(git hash-object weights_manifest.yaml | cut -c1-12)"
if git ls-remote --exit-code --heads origin "$branch" > /dev/null; then
  echo "$branch has already been proposed"
  exit 0
fi
git switch -c "$branch"
git -c user.name="weights workflow" -c user.email="weights@users.noreply.github.com" \
  commit -m "Record the digests of the regenerated weights" -- weights_manifest.yaml
git push origin "$branch"
gh pr create --head "$branch" --title "Regenerated weights" \
  --body "The diff shows which releases or converted files differ from the pinned digests."

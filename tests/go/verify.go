// Verifies a log from its public files alone, with the packages that Go's own checksum database is
// verified with: golang.org/x/mod/sumdb/note and golang.org/x/mod/sumdb/tlog. Nothing here comes
// from the ledger's code, and nothing is asked of its server.
//
//	verify DIR
//
// DIR holds:
//
//	log.vkey                     the log's verifier key, as its auditors were given it
//	other.vkey                   a key of the same name that is not the log's
//	log.skey                     the log's signer key; only where it is no secret
//	witness.vkey                 a witness's verifier key (signature type 4)
//	tile/...                     tiles and entry bundles, under the paths of C2SP tlog-tiles
//	trees/SIZE/checkpoint        signed by the other key, the log and the witness
//	trees/SIZE/checkpoint.other  the same, signed by the other key alone
//	trees/SIZE/inclusion/INDEX   an audit path, one hash in base64 a line
//	trees/SIZE/consistency/FIRST a consistency proof, likewise
//	trees/SIZE/proof/INDEX       a C2SP tlog-proof with the entry as its extra data
//	trees/SIZE/segment/INDEX     hashes of the ledger's chain in the place of an audit path
//
// Prints what it verified and what it refused, one line each for every tree; ends with 1 at the
// first thing that is not as it must be.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: verify DIR")
		os.Exit(2)
	}
	dir := os.Args[1]
	log := open(dir)
	for _, size := range numbers(filepath.Join(dir, "trees")) {
		log.verify(size)
	}
	if _, err := os.Stat(filepath.Join(dir, "log.skey")); err == nil {
		log.signAgain()
	}
}

// log is what an auditor knows of a log, and the entries read so far.
type log struct {
	dir       string
	key       note.Verifier
	other     note.Verifier
	witness   witness
	entries   [][]byte
	stored    []tlog.Hash // of the entries, in the order in which sumdb stores hashes
	seenTrees []tlog.Tree
}

func open(dir string) *log {
	key := func(name string) note.Verifier {
		verifier, err := note.NewVerifier(strings.TrimSpace(string(read(dir, name))))
		must(err, name)
		return verifier
	}
	known := &log{dir: dir, key: key("log.vkey"), other: key("other.vkey")}
	known.witness = parseWitness(strings.TrimSpace(string(read(dir, "witness.vkey"))))
	check(known.key.Name() == known.other.Name(), "the other key has the log's name")
	return known
}

// verify does what an auditor does with one signed tree, and then what a forger would want.
func (l *log) verify(size int64) {
	dir := filepath.Join(l.dir, "trees", fmt.Sprint(size))
	tree, text, signed := l.openCheckpoint(dir, size)
	l.witness.verify(signed, text)
	l.readEntries(size)

	root, err := tlog.TreeHash(size, l.reader())
	must(err, "root from entries")
	check(root == tree.Hash, "the root from the entries is the one that was signed")

	// Reads tiles and checks them against the root before it gives out any hash.
	tiles := tlog.TileHashReader(tree, &tilesOnDisk{l.dir})
	root, err = tlog.TreeHash(size, tiles)
	must(err, "root from tiles")
	check(root == tree.Hash, "the root from the tiles is the one that was signed")

	inclusions := numbers(filepath.Join(dir, "inclusion"))
	for _, index := range inclusions {
		path := hashes(read(dir, "inclusion", fmt.Sprint(index)))
		leaf := tlog.RecordHash(l.entries[index])
		must(tlog.CheckRecord(path, size, tree.Hash, index, leaf), "inclusion of %d", index)
		ownPath, err := tlog.ProveRecord(size, index, tiles)
		must(err, "own path of %d", index)
		check(equal(ownPath, path), "the path from the tiles is the path that was given")
	}

	consistencies := numbers(filepath.Join(dir, "consistency"))
	for _, first := range consistencies {
		proof := hashes(read(dir, "consistency", fmt.Sprint(first)))
		before := l.treeHash(first)
		must(tlog.CheckTree(proof, size, tree.Hash, first, before), "consistency with %d", first)
		ownProof, err := tlog.ProveTree(size, first, tiles)
		must(err, "own proof from %d", first)
		check(equal(ownProof, proof), "the proof from the tiles is the proof that was given")
		check(refuses(tlog.CheckTree(proof, size, tree.Hash, first, tlog.Hash{1})), "another old root")
	}

	proofs := numbers(filepath.Join(dir, "proof"))
	for _, index := range proofs {
		l.verifyProof(string(read(dir, "proof", fmt.Sprint(index))), index, tree)
	}
	fmt.Printf("ok: %d entries: note, cosignature, root from bundles, root from tiles, "+
		"%d inclusion, %d consistency, %d tlog-proofs\n",
		size, len(inclusions), len(consistencies), len(proofs))

	refused := l.refuse(dir, tree)
	fmt.Printf("refused: %d entries: %s\n", size, strings.Join(refused, ", "))
	l.seenTrees = append(l.seenTrees, tree)
}

// signAgain signs with the log's own key: Ed25519 has one signature for a key and a text.
func (l *log) signAgain() {
	signer, err := note.NewSigner(strings.TrimSpace(string(read(l.dir, "log.skey"))))
	must(err, "signer key")
	for _, tree := range l.seenTrees {
		signed := read(l.dir, "trees", fmt.Sprint(tree.N), "checkpoint")
		opened, err := note.Open(signed, note.VerifierList(l.key))
		must(err, "note of %d", tree.N)
		again, err := note.Sign(&note.Note{Text: opened.Text}, signer)
		must(err, "sign")
		_, line, _ := strings.Cut(string(again), "\n\n")
		check(strings.Contains(string(signed), line), "the log's signature is the one that Go makes")
	}
	fmt.Println("ok: signer key")
}

// openCheckpoint answers the tree that the log has signed, the text, and the note.
func (l *log) openCheckpoint(dir string, size int64) (tlog.Tree, string, []byte) {
	signed := read(dir, "checkpoint")
	opened, err := note.Open(signed, note.VerifierList(l.key))
	must(err, "note of %d", size)
	check(len(opened.Sigs) == 1, "one signature counts")
	check(len(opened.UnverifiedSigs) == 2, "those of others are ignored, also of the same name")
	tree := parseCheckpoint(opened.Text, l.key.Name())
	check(tree.N == size, "the checkpoint is of this size")
	return tree, opened.Text, signed
}

// parseCheckpoint is by hand: sumdb's own notes have another first line.
func parseCheckpoint(text, origin string) tlog.Tree {
	lines := strings.Split(text, "\n")
	check(len(lines) == 4 && lines[3] == "", "a checkpoint without extensions has three lines")
	check(lines[0] == origin, "the origin is the name of the key")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err, "size")
	check(fmt.Sprint(size) == lines[1], "the size has one writing")
	root, err := tlog.ParseHash(lines[2])
	must(err, "root")
	return tlog.Tree{N: size, Hash: root}
}

// readEntries reads the bundles of a tree, and sees that earlier entries are still the same.
func (l *log) readEntries(size int64) {
	for start := int64(0); start < size; start += 256 {
		width := min(size-start, 256)
		bundle := read(l.dir, tilePath("entries", start/256, int(width)))
		for index := start; index < start+width; index++ {
			check(len(bundle) >= 2, "a bundle holds its entries")
			length := int(binary.BigEndian.Uint16(bundle))
			check(len(bundle) >= 2+length, "an entry is whole")
			entry := bundle[2 : 2+length]
			bundle = bundle[2+length:]
			if index < int64(len(l.entries)) {
				check(bytes.Equal(l.entries[index], entry), "entry %d has not changed", index)
				continue
			}
			more, err := tlog.StoredHashes(index, entry, l.reader())
			must(err, "entry %d", index)
			l.entries = append(l.entries, entry)
			l.stored = append(l.stored, more...)
		}
		check(len(bundle) == 0, "a bundle holds no more than its entries")
	}
}

func (l *log) reader() tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(indexes))
		for at, index := range indexes {
			found[at] = l.stored[index]
		}
		return found, nil
	})
}

func (l *log) treeHash(size int64) tlog.Hash {
	root, err := tlog.TreeHash(size, l.reader())
	must(err, "root of %d", size)
	for _, seen := range l.seenTrees {
		check(seen.N != size || seen.Hash == root, "a tree that was seen before is the same")
	}
	return root
}

// verifyProof verifies a C2SP tlog-proof from its text and the key alone.
func (l *log) verifyProof(text string, index int64, tree tlog.Tree) {
	head, checkpoint, found := strings.Cut(text, "\n\n")
	check(found, "a tlog-proof has a checkpoint")
	lines := strings.Split(head, "\n")
	check(lines[0] == "c2sp.org/tlog-proof@v1", "the first line of a tlog-proof")
	check(strings.HasPrefix(lines[1], "extra "), "the entry is in the proof")
	entry, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	must(err, "extra data")
	check(lines[2] == fmt.Sprintf("index %d", index), "the proof names the index")
	path := hashes([]byte(strings.Join(lines[3:], "\n")))
	opened, err := note.Open([]byte(checkpoint), note.VerifierList(l.key))
	must(err, "note in the tlog-proof of %d", index)
	proven := parseCheckpoint(opened.Text, l.key.Name())
	check(proven == tree, "the tlog-proof is of this tree")
	must(tlog.CheckRecord(path, proven.N, proven.Hash, index, tlog.RecordHash(entry)), "tlog-proof")
	check(bytes.Equal(entry, l.entries[index]), "the entry in the tlog-proof is the ledger's")
}

// refuse tries what must not pass. Answers what was tried.
func (l *log) refuse(dir string, tree tlog.Tree) []string {
	var tried []string
	try := func(claim string, err error) {
		check(refuses(err), "%s is refused", claim)
		if len(tried) == 0 || tried[len(tried)-1] != claim {
			tried = append(tried, claim)
		}
	}

	byOther := read(dir, "checkpoint.other")
	_, err := note.Open(byOther, note.VerifierList(l.key))
	try("another key of the name", err)
	_, err = note.Open(byOther, note.VerifierList(l.other))
	must(err, "the other key's note is good under the other key")

	signed := read(dir, "checkpoint")
	size := fmt.Sprintf("\n%d\n", tree.N)
	changed := bytes.Replace(signed, []byte(size), []byte(fmt.Sprintf("\n%d\n", tree.N+1)), 1)
	_, err = note.Open(changed, note.VerifierList(l.key))
	try("a changed checkpoint", err)

	for _, index := range numbers(filepath.Join(dir, "inclusion")) {
		path := hashes(read(dir, "inclusion", fmt.Sprint(index)))
		entry := append([]byte{}, l.entries[index]...)
		entry[len(entry)/2] ^= 1
		try("a changed entry", tlog.CheckRecord(path, tree.N, tree.Hash, index, tlog.RecordHash(entry)))
	}
	if tree.N > 1 {
		for _, index := range numbers(filepath.Join(dir, "inclusion")) {
			path := hashes(read(dir, "inclusion", fmt.Sprint(index)))
			neighbour := tlog.RecordHash(l.entries[(index+1)%tree.N])
			try("swapped entries", tlog.CheckRecord(path, tree.N, tree.Hash, index, neighbour))
		}
	}
	for _, index := range numbers(filepath.Join(dir, "segment")) {
		segment := hashes(read(dir, "segment", fmt.Sprint(index)))
		check(len(segment) > 0, "a segment has hashes")
		leaf := tlog.RecordHash(l.entries[index])
		try("a chain segment", tlog.CheckRecord(segment, tree.N, tree.Hash, index, leaf))
		try("a chain segment", tlog.CheckTree(segment, tree.N, tree.Hash, index+1, tlog.Hash{}))
	}
	for _, index := range numbers(filepath.Join(dir, "inclusion")) {
		path := hashes(read(dir, "inclusion", fmt.Sprint(index)))
		leaf := tlog.RecordHash(l.entries[index])
		longer := append(append(tlog.RecordProof{}, path...), tree.Hash)
		try("a changed path", tlog.CheckRecord(longer, tree.N, tree.Hash, index, leaf))
		for at := range path {
			path[at][31] ^= 1
			try("a changed path", tlog.CheckRecord(path, tree.N, tree.Hash, index, leaf))
			path[at][31] ^= 1
		}
	}
	return tried
}

// tilesOnDisk reads tiles under the paths of C2SP, which are sumdb's without the height.
type tilesOnDisk struct{ dir string }

func (d *tilesOnDisk) Height() int { return 8 }

func (d *tilesOnDisk) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for at, tile := range tiles {
		path := tilePath(fmt.Sprint(tile.L), tile.N, tile.W)
		check("tile/8/"+strings.TrimPrefix(path, "tile/") == tile.Path(), "paths differ by the height")
		data[at] = read(d.dir, path)
	}
	return data, nil
}

func (d *tilesOnDisk) SaveTiles([]tlog.Tile, [][]byte) {}

func tilePath(level string, number int64, width int) string {
	path := fmt.Sprintf("%03d", number%1000)
	for number >= 1000 {
		number /= 1000
		path = fmt.Sprintf("x%03d/%s", number%1000, path)
	}
	if width != 256 {
		path = fmt.Sprintf("%s.p/%d", path, width)
	}
	return "tile/" + level + "/" + path
}

// witness is a key of C2SP tlog-cosignature, which Go's note package does not know.
type witness struct {
	name string
	id   []byte
	key  ed25519.PublicKey
}

func parseWitness(text string) witness {
	parts := strings.SplitN(text, "+", 3)
	check(len(parts) == 3, "a verifier key has three parts")
	key, err := base64.StdEncoding.DecodeString(parts[2])
	must(err, "key of the witness")
	check(len(key) == 33 && key[0] == 4, "the key of a witness has type 4")
	sum := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
	check(fmt.Sprintf("%x", sum[:4]) == parts[1], "the key id is of name, type and key")
	return witness{parts[0], sum[:4], ed25519.PublicKey(key[1:])}
}

// verify looks for the witness's line under a note and verifies it by hand.
func (w witness) verify(signed []byte, text string) {
	found := 0
	for _, line := range strings.Split(string(signed), "\n") {
		encoded, is := strings.CutPrefix(line, "— "+w.name+" ")
		if !is {
			continue
		}
		bytesOf, err := base64.StdEncoding.DecodeString(encoded)
		must(err, "cosignature")
		check(len(bytesOf) == 4+8+64 && bytes.Equal(bytesOf[:4], w.id), "form of a cosignature")
		time := binary.BigEndian.Uint64(bytesOf[4:12])
		message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", time, text)
		check(ed25519.Verify(w.key, []byte(message), bytesOf[12:]), "the cosignature is good")
		later := fmt.Sprintf("cosignature/v1\ntime %d\n%s", time+1, text)
		check(!ed25519.Verify(w.key, []byte(later), bytesOf[12:]), "its time is signed")
		found++
	}
	check(found == 1, "the witness has cosigned once")
}

func hashes(text []byte) []tlog.Hash {
	var all []tlog.Hash
	for _, line := range strings.Fields(string(text)) {
		hash, err := tlog.ParseHash(line)
		must(err, "hash")
		all = append(all, hash)
	}
	return all
}

func equal(one, other []tlog.Hash) bool {
	return fmt.Sprint(one) == fmt.Sprint(other)
}

// numbers are the names of a directory's members, in order. A directory that is not there is empty.
func numbers(dir string) []int64 {
	members, err := os.ReadDir(dir)
	if !os.IsNotExist(err) {
		must(err, dir)
	}
	var all []int64
	for _, member := range members {
		number, err := strconv.ParseInt(member.Name(), 10, 64)
		must(err, dir)
		all = append(all, number)
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	return all
}

func read(parts ...string) []byte {
	data, err := os.ReadFile(filepath.Join(parts...))
	must(err, "read")
	return data
}

func refuses(err error) bool { return err != nil }

func must(err error, format string, values ...any) {
	if err != nil {
		fail(fmt.Sprintf(format, values...) + ": " + err.Error())
	}
}

func check(holds bool, format string, values ...any) {
	if !holds {
		fail("not so: " + fmt.Sprintf(format, values...))
	}
}

func fail(what string) {
	fmt.Fprintln(os.Stderr, what)
	os.Exit(1)
}

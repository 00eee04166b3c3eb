// Reads a whole transparency log and verifies it with nothing but Go's own golang.org/x/mod/sumdb/note and sumdb/tlog:
// the checkpoint's signature, every tile against the signed root, every entry against its leaf hash.
//
//	go run tlog-reader.go URL VKEY
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const width = 256

// A reader of one log.
type reader struct{ url string }

func (r reader) get(path string) ([]byte, error) {
	answer, err := http.Get(r.url + "/" + path)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, width*(2+65535)))
}

// What tlog asks of a reader of tiles.
func (r reader) Height() int                     { return 8 }
func (r reader) SaveTiles([]tlog.Tile, [][]byte) {}
func (r reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		// A tiled log of C2SP has one height of tiles, which its paths do not name.
		data, err := r.get(strings.Replace(tile.Path(), "tile/8/", "tile/", 1))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func main() {
	url, vkey := strings.TrimSuffix(os.Args[1], "/"), os.Args[2]
	tree := signedTree(reader{url}, vkey)
	hashes := tlog.TileHashReader(tree, reader{url})
	for start := int64(0); start < tree.N; start += width {
		check(reader{url}, hashes, start, min(tree.N-start, width))
	}
	fmt.Printf("verified %d entries, root %s\n", tree.N, tree.Hash)
}

func signedTree(r reader, vkey string) tlog.Tree {
	verifier, err := note.NewVerifier(vkey)
	must(err)
	data, err := r.get("checkpoint")
	must(err)
	signed, err := note.Open(data, note.VerifierList(verifier))
	must(err)
	lines := strings.Split(signed.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		log.Fatalf("the checkpoint is not one of %s", verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	root, err := tlog.ParseHash(lines[2])
	must(err)
	return tlog.Tree{N: size, Hash: root}
}

// One bundle of entries, each against its hash, which the reader of hashes has verified against the root.
func check(r reader, hashes tlog.HashReader, start, count int64) {
	tile := tlog.Tile{H: 8, L: 0, N: start / width, W: int(count)}
	data, err := r.get(strings.Replace(tile.Path(), "tile/8/0/", "tile/entries/", 1))
	must(err)
	var indexes []int64
	for index := start; index < start+count; index++ {
		indexes = append(indexes, tlog.StoredHashIndex(0, index))
	}
	leaves, err := hashes.ReadHashes(indexes)
	must(err)
	for at, leaf := range leaves {
		end := 2 + int(binary.BigEndian.Uint16(data))
		if tlog.RecordHash(data[2:end]) != leaf {
			log.Fatalf("entry %d is not the one in the tree", start+int64(at))
		}
		data = data[end:]
	}
	if len(data) > 0 {
		log.Fatalf("bytes after entry %d", start+count-1)
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

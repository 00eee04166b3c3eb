// Verifies a C2SP tlog-proof with an implementation that is not ours. The entry is the proof's extra data; the log has the
// first key, and each witness that is named must have cosigned.
//
//	tlog-proof FILE VKEY [WITNESS-VKEY...]
package main

import (
	"fmt"
	"log"
	"os"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	log.SetFlags(0)
	proof, err := os.ReadFile(os.Args[1])
	must(err)
	entry, err := torchwood.ProofExtraData(proof)
	must(err)
	must(torchwood.VerifyProof(policy(os.Args[2], os.Args[3:]), tlog.RecordHash(entry), proof))
	fmt.Printf("verified an entry of %d bytes\n", len(entry))
}

func policy(logKey string, witnesses []string) torchwood.Policy {
	key, err := note.NewVerifier(logKey)
	must(err)
	all := []torchwood.Policy{torchwood.OriginPolicy(key.Name()), torchwood.SingleVerifierPolicy(key)}
	for _, each := range witnesses {
		witness, err := torchwood.NewCosignatureVerifier(each)
		must(err)
		all = append(all, torchwood.SingleVerifierPolicy(witness))
	}
	return torchwood.ThresholdPolicy(len(all), all...)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

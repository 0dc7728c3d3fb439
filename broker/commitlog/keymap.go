package commitlog

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/firnlog/firn/record"
)

// keyMap says at which offset the latest record of each key is. It holds 128
// bits of each key's SHA-256 and not the key: a collision would lose a record,
// and producers choose the keys. Its memory is set when it is made.
type keyMap struct {
	slots []keySlot
	used  int
	most  int
}

type keySlot struct {
	hash [16]byte
	next record.Offset // of the latest record, plus one; 0: the slot is free
}

// keySlotBytes is the memory of one slot.
const keySlotBytes = 24

// newKeyMap makes a map for so many keys, or for as many as bytes allow.
// Nine slots in ten are used at most, as in Kafka.
func newKeyMap(keys, bytes int64) *keyMap {
	slots := max(min(keys*10/9+2, bytes/keySlotBytes), 2)
	return &keyMap{slots: make([]keySlot, slots), most: max(int(slots*9/10), 1)}
}

// bytes is the memory of the map.
func (m *keyMap) bytes() int64 { return int64(len(m.slots)) * keySlotBytes }

func (m *keyMap) find(key []byte) *keySlot {
	sum := sha256.Sum256(key)
	hash := [16]byte(sum[:16])
	for i := binary.BigEndian.Uint64(sum[:]) % uint64(len(m.slots)); ; {
		if s := &m.slots[i]; s.next == 0 || s.hash == hash {
			s.hash = hash
			return s
		}
		if i++; i == uint64(len(m.slots)) {
			i = 0
		}
	}
}

// put notes that key is at offset o, which is above all before. It says false
// when the map is full; the key is not in it then.
func (m *keyMap) put(key []byte, o record.Offset) bool {
	s := m.find(key)
	if s.next == 0 {
		if m.used >= m.most {
			return false
		}
		m.used++
	}
	s.next = o + 1
	return true
}

// latest gives the offset of key's latest record, -1 when it has none here.
func (m *keyMap) latest(key []byte) record.Offset { return m.find(key).next - 1 }

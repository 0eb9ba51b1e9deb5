package podcni

import (
	"maps"
	"slices"
	"strings"
)

// recordIndex tells which files may hold records of a sandbox, from nothing but
// their names. A name does not say for certain whose it is, because '-' joins
// its parts and may be in each; it is kept under every sandbox that it fits.
// The zero value is empty. The store's mutex guards it.
type recordIndex struct {
	names map[string]uint32   // to the listing that saw them last
	byID  map[string]nameSet  // sandbox to names
	wild  map[string]struct{} // names that fit too many sandboxes to list
	gen   uint32
}

// nameSet is a set of names, nearly always of one. Names that are alike, such as
// net-pod-1-eth0 and net-pod-2-eth0, all fit one more sandbox, here "pod".
type nameSet struct {
	one  string
	more map[string]struct{} // nil, or all of them
}

// manySplits is how many sandboxes a name may fit before it goes to wild. Names
// that people give stay far below.
const manySplits = 32

// recordSplit is one way to read a record's name.
type recordSplit struct{ network, id, ifName string }

// splitName lists the ways to read a record's name as network-sandbox-interface,
// none when it is not the name of a record; past limit it stops.
func splitName(name string, limit int) []recordSplit {
	var splits []recordSplit
	for j := strings.LastIndexByte(name, '-'); j > 0; j = strings.LastIndexByte(name[:j], '-') {
		ifName := name[j+1:]
		if len(ifName) > longestIfName {
			break
		}
		if checkInterfaceName(ifName) != nil || checkNetworkName(name[:j]) != nil {
			continue
		}
		for i := strings.IndexByte(name[:j], '-'); i >= 0; {
			// Both begin with a letter or a digit, and the rest was checked.
			if id := name[i+1 : j]; id != "" && checkContainerID(id[:1]) == nil {
				if len(splits) == limit {
					return splits
				}
				splits = append(splits, recordSplit{name[:i], id, ifName})
			}
			next := strings.IndexByte(name[i+1:j], '-')
			if next < 0 {
				break
			}
			i += 1 + next
		}
	}
	return splits
}

// ownSplit reads a record's name for one sandbox. certain says that no other
// reading is likely: either there is none, or this one is the plain one of a
// sandbox whose ID is too long to turn up inside another's by chance.
func ownSplit(name, id string) (own recordSplit, fits, certain bool) {
	const longID = 16
	all := splitName(name, longestName*longestIfName)
	mine := 0
	for _, s := range all {
		if s.id != id {
			continue
		}
		// The plainest interface name comes first.
		if mine == 0 {
			own = s
		}
		mine++
	}
	plain := len(id) >= longID && !strings.Contains(own.ifName, "-")
	return own, mine > 0, mine == 1 && (len(all) == 1 || plain)
}

// add puts a name into the index; again is fine.
func (x *recordIndex) add(name string) {
	if _, ok := x.names[name]; ok {
		x.names[name] = x.gen
		return
	}
	if x.names == nil {
		x.names = make(map[string]uint32)
		x.byID = make(map[string]nameSet)
		x.wild = make(map[string]struct{})
	}
	x.names[name] = x.gen
	splits := splitName(name, manySplits+1)
	if len(splits) > manySplits {
		x.wild[name] = struct{}{}
		return
	}
	for _, s := range splits {
		set, ok := x.byID[s.id]
		switch {
		case !ok:
			x.byID[s.id] = nameSet{one: name}
		case set.more != nil:
			set.more[name] = struct{}{}
		case set.one != name:
			x.byID[s.id] = nameSet{more: map[string]struct{}{set.one: {}, name: {}}}
		}
	}
}

// remove takes a name out of the index; again is fine.
func (x *recordIndex) remove(name string) {
	if _, ok := x.names[name]; !ok {
		return
	}
	delete(x.names, name)
	if _, ok := x.wild[name]; ok {
		delete(x.wild, name)
		return
	}
	for _, s := range splitName(name, manySplits) {
		set := x.byID[s.id]
		delete(set.more, name)
		if set.one == name || set.more != nil && len(set.more) == 0 {
			delete(x.byID, s.id)
		}
	}
}

// replace makes the index one of exactly these names.
func (x *recordIndex) replace(names []string) {
	x.gen++
	for _, name := range names {
		x.add(name)
	}
	if len(x.names) == len(names) {
		return
	}
	for name, gen := range x.names {
		if gen != x.gen {
			x.remove(name)
		}
	}
}

// of lists the names that fit a sandbox.
func (x *recordIndex) of(id string) []string {
	var names []string
	if set := x.byID[id]; set.one != "" {
		names = append(names, set.one)
	} else {
		names = slices.AppendSeq(names, maps.Keys(set.more))
	}
	for name := range x.wild {
		if _, fits, _ := ownSplit(name, id); fits {
			names = append(names, name)
		}
	}
	return names
}

// all lists every name, sorted.
func (x *recordIndex) all() []string {
	return slices.Sorted(maps.Keys(x.names))
}

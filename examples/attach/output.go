package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podcni/podcni"
)

func (e *env) printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

type attachedJSON struct {
	ID       string       `json:"id"`
	NetNS    string       `json:"netns"`
	Networks []resultJSON `json:"networks"`
}

type resultJSON struct {
	Network   string       `json:"network"`
	Interface string       `json:"interface"`
	Result    types.Result `json:"result"`
}

// printResults prints what a pod got of its networks.
func (e *env) printResults(w io.Writer, pod podcni.PodNetwork, results []podcni.NetResult) error {
	if e.json {
		out := attachedJSON{ID: pod.ID, NetNS: pod.NetNS, Networks: []resultJSON{}}
		for _, r := range results {
			out.Networks = append(out.Networks, resultJSON{Network: r.Name, Interface: r.Ifname, Result: r.Result})
		}
		return e.printJSON(w, out)
	}
	all, err := podcni.MergeResults(results)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "sandbox %s in %s\n", pod.ID, pod.NetNS)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NETWORK\tINTERFACE\tMAC\tADDRESSES\tGATEWAYS")
	for _, row := range rows(all) {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", row.network, dash(row.name), dash(row.mac),
			dash(strings.Join(row.addresses, ",")), dash(strings.Join(row.gateways, ",")))
	}
	return t.Flush()
}

// row is one interface of the pod.
type row struct {
	network, name, mac  string
	addresses, gateways []string
}

// rows are the pod's interfaces with their addresses. A plugin may tell
// addresses without interfaces, or interfaces without addresses.
func rows(all podcni.PodResult) []row {
	var rows []row
	find := func(network, name string) *row {
		for i := range rows {
			if rows[i].network == network && rows[i].name == name {
				return &rows[i]
			}
		}
		rows = append(rows, row{network: network, name: name})
		return &rows[len(rows)-1]
	}
	for i := range all.Interfaces {
		itf := &all.Interfaces[i]
		if itf.Sandbox == "" {
			continue // the host's: its end of the pair, a bridge
		}
		find(itf.Network, itf.Name).mac = itf.MAC
	}
	for i := range all.IPs {
		ip := &all.IPs[i]
		r := find(ip.Network, ip.Interface)
		r.addresses = append(r.addresses, ip.Address.String())
		if ip.Gateway.IsValid() {
			r.gateways = append(r.gateways, ip.Gateway.String())
		}
	}
	return rows
}

type statusJSON struct {
	Ready    bool           `json:"ready"`
	Reason   string         `json:"reason,omitempty"`
	Default  string         `json:"default,omitempty"`
	Networks []networkJSON  `json:"networks"`
	Rejected []rejectedJSON `json:"rejected"`
}

type networkJSON struct {
	Name       string   `json:"name"`
	Default    bool     `json:"default"`
	CNIVersion string   `json:"cniVersion"`
	Plugins    []string `json:"plugins"`
	Path       string   `json:"path"`
}

type rejectedJSON struct {
	Path    string `json:"path"`
	Network string `json:"network,omitempty"`
	Reason  string `json:"reason"`
}

type networksJSON struct {
	Networks []networkJSON  `json:"networks"`
	Rejected []rejectedJSON `json:"rejected"`
}

func jsonStatus(ready error, p *podcni.CNI) statusJSON {
	lists := jsonNetworks(p.Networks(), p.Rejected())
	s := statusJSON{
		Ready: ready == nil, Default: p.GetDefaultNetworkName(),
		Networks: lists.Networks, Rejected: lists.Rejected,
	}
	if ready != nil {
		s.Reason = ready.Error()
	}
	return s
}

func jsonNetworks(loaded []podcni.Network, rejected []*podcni.ConfigError) networksJSON {
	out := networksJSON{Networks: []networkJSON{}, Rejected: []rejectedJSON{}}
	for i := range loaded {
		n := &loaded[i]
		out.Networks = append(out.Networks, networkJSON{
			Name: n.Name, Default: n.Default, CNIVersion: n.CNIVersion, Plugins: n.Plugins, Path: n.Path,
		})
	}
	for i := range rejected {
		r := rejected[i]
		out.Rejected = append(out.Rejected, rejectedJSON{Path: r.Path, Network: r.Network, Reason: r.Err.Error()})
	}
	return out
}

type attachmentJSON struct {
	ID        string `json:"id,omitempty"`
	Network   string `json:"network,omitempty"`
	Interface string `json:"interface,omitempty"`
	State     string `json:"state"`
	Since     string `json:"since,omitempty"`
	NetNS     string `json:"netns,omitempty"`
	Owner     string `json:"owner,omitempty"`
	Path      string `json:"path,omitempty"`
	Error     string `json:"error,omitempty"`
}

func jsonAttachments(attachments []podcni.Attachment) []attachmentJSON {
	out := []attachmentJSON{}
	for i := range attachments {
		a := &attachments[i]
		j := attachmentJSON{
			ID: a.ContainerID, Network: a.Network, Interface: a.IfName, State: string(a.State),
			NetNS: a.NetNS, Owner: a.Owner, Path: a.Path,
		}
		if !a.Since.IsZero() {
			j.Since = a.Since.Format(time.RFC3339)
		}
		if a.Err != nil {
			j.Error = a.Err.Error()
		}
		out = append(out, j)
	}
	return out
}

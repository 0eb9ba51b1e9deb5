package confdir

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"text/template"
)

// templatePath stands for the file of the network that the template makes.
const templatePath = "WithConfTemplate"

var errNoPodCIDRs = errors.New("it waits for the pod CIDRs: UpdatePodCIDRs has not been called")

// podCIDRs is what the template sees.
type podCIDRs struct {
	PodCIDR  string
	PodCIDRs []string
	Routes   []string
}

func render(t *template.Template, cidrs []netip.Prefix) (*source, error) {
	if len(cidrs) == 0 {
		return nil, invalid(errors.New("there are no pod CIDRs"))
	}
	var data podCIDRs
	for i, cidr := range cidrs {
		if !cidr.IsValid() {
			return nil, invalid(fmt.Errorf("pod CIDR %d is not valid", i))
		}
		data.PodCIDRs = append(data.PodCIDRs, cidr.Masked().String())
		route := "::/0"
		if cidr.Addr().Is4() {
			route = "0.0.0.0/0"
		}
		if !slices.Contains(data.Routes, route) {
			data.Routes = append(data.Routes, route)
		}
	}
	data.PodCIDR = data.PodCIDRs[0]
	var b boundedBuffer
	if err := t.Execute(&b, data); err != nil {
		return nil, invalid(err)
	}
	return parseInMemory(b.data)
}

// boundedBuffer takes as much as a configuration may have.
type boundedBuffer struct{ data []byte }

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if len(b.data)+len(p) > maxFile {
		return 0, errTooLarge
	}
	b.data = append(b.data, p...)
	return len(p), nil
}
